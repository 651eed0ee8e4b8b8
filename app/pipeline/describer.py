"""Kept faces to what a request wants of them: crops, quality, embeddings, attributes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from app.domain import Crop, Detections, ExtractOptions, Face
from app.errors import ModelError
from app.geometry.alignment import CROP_SIDE_PX, TEMPLATE, crop_scales
from app.geometry.quality import measure_quality
from app.imaging.loader import LoadedPicture
from app.pipeline.attributes import Attributes
from app.pipeline.pictures import PictureJob
from app.pipeline.pool import WorkPool
from app.pipeline.recognizer import Recognizer, align_faces

CROPS_AT_ONCE = 64
"""Faces of one picture aligned and queued at once; bounds what a crowd holds in memory (37 kB a crop)."""

EMBEDDING_ONLY = ExtractOptions(score_threshold=0.0)
"""What is wanted of faces whose place is known."""


class Describer:
    """Tells what is asked of faces. Stateless but for the models it uses; any number of calls at once."""

    def __init__(self, recognizer: Recognizer | None, attributes: Attributes, pool: WorkPool) -> None:
        self._recognizer = recognizer
        self._attributes = attributes
        self._pool = pool

    def check(self, options: ExtractOptions) -> None:
        """Refuse what cannot be had before any work is done for it. Attributes without a model stay None instead.

        Raises:
            ModelError: Embeddings are wanted, and no recognizer is configured.
        """
        if options.with_embedding and self._recognizer is None:
            raise ModelError("No recognizer is configured; ask for detection only.")

    async def describe(
        self, job: PictureJob, picture: LoadedPicture, detections: Detections, options: ExtractOptions
    ) -> list[Face]:
        """Describe the faces of one picture, a bounded number at once.

        Args:
            job: Where the time is counted.
            picture: Decoded; it is decoded anew where a face needs more of its pixels.
            detections: The faces, source pixels.
            options: What is wanted; what is not costs nothing.

        Returns:
            The faces in order, without crops unless they are wanted.

        Raises:
            ModelError: A model cannot be loaded.
            CapacityError: A queue is full, the deadline passed, shutting down.
            InferenceError: A run failed.
        """
        with_crops = self._needs_crops(options)
        if picture.scale < 1:
            crop_scale = _crop_scale(detections) if with_crops else 0.0
            await _enlarge(job, picture, max(self._attributes.needed_scale(options, detections.boxes), crop_scale))
        done: list[Face] = []
        for start in range(0, len(detections), CROPS_AT_ONCE):
            part = detections.take(slice(start, start + CROPS_AT_ONCE))
            crops = await self._align(job, picture, part) if with_crops else None
            done += await self._describe(job, _faces(job, part, crops), picture, options)
        return done

    async def describe_crop(self, job: PictureJob, crop: Crop, options: ExtractOptions) -> list[Face]:
        """Describe a face of which there is only its crop; errors are those of `describe`."""
        side = float(CROP_SIDE_PX)
        whole = Detections(np.array([[0, 0, side, side]], np.float32), np.ones(1, np.float32), TEMPLATE[None])
        return await self._describe(job, _faces(job, whole, [crop]), None, options)

    async def drop_poor(
        self, job: PictureJob, picture: LoadedPicture, detections: Detections, *, least: float
    ) -> Detections:
        """Return the faces whose quality is at least `least`, [0, 1]."""
        await _enlarge(job, picture, _crop_scale(detections))
        scores: list[float] = []
        for start in range(0, len(detections), CROPS_AT_ONCE):
            part = detections.take(slice(start, start + CROPS_AT_ONCE))
            faces = await self._measure(job, _faces(job, part, await self._align(job, picture, part)))
            scores += [face.quality.score for face in faces if face.quality]
        return detections.take(np.array(scores) >= least)

    def _needs_crops(self, options: ExtractOptions) -> bool:
        return (
            options.with_embedding or options.with_crop or options.with_quality or self._attributes.needs_crops(options)
        )

    async def _describe(
        self, job: PictureJob, faces: list[Face], picture: LoadedPicture | None, options: ExtractOptions
    ) -> list[Face]:
        if options.with_quality and picture is not None:
            faces = await self._measure(job, faces)
        if options.with_embedding:
            faces = await self._recognize(job, faces)
        outcome = await self._attributes.read(faces, picture, options, group=job.group, deadline=job.deadline)
        job.add(load_s=outcome.load_s, attributes_s=outcome.took_s, queue_s=outcome.queued_s)
        return outcome.faces if options.with_crop else [replace(face, crop=None) for face in outcome.faces]

    async def _align(self, job: PictureJob, picture: LoadedPicture, faces: Detections) -> list[Crop]:
        started = time.perf_counter()
        crops = await align_faces(self._pool, picture.pixels, faces.landmarks * np.float32(picture.scale))
        job.add(align_s=time.perf_counter() - started)
        return crops

    async def _measure(self, job: PictureJob, faces: Sequence[Face]) -> list[Face]:
        def measure() -> list[Face]:
            return [
                replace(face, quality=measure_quality(face.crop, face.box, face.landmarks))
                for face in faces
                if face.crop is not None
            ]

        started = time.perf_counter()
        measured = await self._pool.run(measure)
        job.add(attributes_s=time.perf_counter() - started)
        return measured

    async def _recognize(self, job: PictureJob, faces: Sequence[Face]) -> list[Face]:
        if self._recognizer is None:  # pragma: no cover - `check` has refused the request
            raise ModelError("No recognizer is configured.")
        crops = [face.crop for face in faces if face.crop is not None]
        outcome = await self._recognizer.embed(crops, group=job.group, deadline=job.deadline)
        job.add(load_s=outcome.load_s, recognize_s=outcome.took_s, queue_s=outcome.queued_s)
        return [replace(face, embedding=found) for face, found in zip(faces, outcome.embeddings, strict=True)]


async def _enlarge(job: PictureJob, picture: LoadedPicture, least_scale: float) -> None:
    """Decode anew if faces need more pixels: a crop is worth as many as the source has, one for each of its own."""
    if picture.scale < min(1.0, least_scale):
        started = time.perf_counter()
        await picture.enlarge(min(1.0, least_scale))
        job.add(decode_s=time.perf_counter() - started)


def _crop_scale(detections: Detections) -> float:
    return float(crop_scales(detections.landmarks).max(initial=0.0))


def _faces(job: PictureJob, detections: Detections, crops: Sequence[Crop] | None) -> list[Face]:
    """Turn rows of arrays into faces that carry the picture they came from."""
    rows = zip(
        detections.boxes,
        detections.scores.tolist(),
        detections.landmarks,
        [None] * len(detections) if crops is None else crops,
        strict=True,
    )
    return [
        Face(image_index=job.index, box=box, score=score, landmarks=landmarks, crop=crop)
        for box, score, landmarks, crop in rows
    ]
