"""Kept faces to what a request wants of them: crops, quality, embeddings, attributes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from jetface.domain import Crop, Detections, Embedding, ExtractOptions, Face, LandmarksFrom, Quality
from jetface.errors import ModelError
from jetface.geometry.alignment import CROP_SIDE_PX, TEMPLATE, visible_shares
from jetface.geometry.quality import measure_quality
from jetface.imaging.loader import LoadedPicture
from jetface.pipeline.attributes import Attributes
from jetface.pipeline.pictures import PictureJob
from jetface.pipeline.pool import WorkPool
from jetface.pipeline.recognizer import Recognizer, align_faces

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

    def models(self, options: ExtractOptions) -> list[str]:
        """Return the names of the models that what is wanted of faces may need."""
        recognizer = self._recognizer.model_name if options.with_embedding and self._recognizer else None
        return [*([recognizer] if recognizer else []), *self._attributes.wanted(options)]

    async def describe(
        self, job: PictureJob, picture: LoadedPicture, detections: Detections, options: ExtractOptions
    ) -> list[Face]:
        """Describe the faces of one picture, a bounded number at once.

        Args:
            job: Where the time is counted.
            picture: Decoded.
            detections: The faces, source pixels.
            options: What is wanted; what is not costs nothing.

        Returns:
            The faces in order, without crops unless they are wanted.

        Raises:
            NotLoaded: A model is not loaded.
            CapacityError: A queue is full, the deadline passed, shutting down.
            InferenceError: A run failed.
        """
        with_crops = self._needs_crops(options)
        done: list[Face] = []
        for start in range(0, len(detections), CROPS_AT_ONCE):
            part = detections.take(slice(start, start + CROPS_AT_ONCE))
            crops = await self._align(job, picture, part) if with_crops else None
            done += await self._describe(job, part, crops, picture, options)
        return done

    async def describe_crop(self, job: PictureJob, crop: Crop, options: ExtractOptions) -> list[Face]:
        """Describe a face of which there is only its crop; errors are those of `describe`."""
        side = float(CROP_SIDE_PX)
        whole = Detections(np.array([[0, 0, side, side]], np.float32), np.ones(1, np.float32), TEMPLATE[None])
        return await self._describe(job, whole, [crop], None, options)

    async def drop_poor(
        self, job: PictureJob, picture: LoadedPicture, detections: Detections, *, least: float
    ) -> Detections:
        """Return the faces whose quality is at least `least`, [0, 1]."""
        scores: list[float] = []
        for start in range(0, len(detections), CROPS_AT_ONCE):
            part = detections.take(slice(start, start + CROPS_AT_ONCE))
            qualities = await self._measure(job, picture, part, await self._align(job, picture, part))
            scores += [quality.score for quality in qualities]
        return detections.take(np.array(scores) >= least)

    def _needs_crops(self, options: ExtractOptions) -> bool:
        return (
            options.with_embedding or options.with_crop or options.with_quality or self._attributes.needs_crops(options)
        )

    async def _describe(
        self,
        job: PictureJob,
        found: Detections,
        crops: Sequence[Crop] | None,
        picture: LoadedPicture | None,
        options: ExtractOptions,
    ) -> list[Face]:
        """Return `found` as faces that carry the picture they came from; `crops` only where `_needs_crops`."""
        unknown = [None] * len(found)
        crops = () if crops is None else crops
        landmarks_from: Sequence[LandmarksFrom | None] = unknown
        visible: Sequence[float | None] = unknown
        qualities: Sequence[Quality | None] = unknown
        if picture is not None:
            landmarks_from = found.origins().tolist()
            visible = visible_shares(found.landmarks, picture.source_hw).tolist()
            if options.with_quality:
                qualities = await self._measure(job, picture, found, crops)
        embeddings = await self._recognize(job, crops) if options.with_embedding else unknown
        attributes = await self._attributes.read(
            found.boxes, crops, picture, options, group=job.group, deadline=job.deadline
        )
        job.add(attributes_s=attributes.took_s, queue_s=attributes.queued_s)
        # Each is made once, with all that is known: a face costs more to copy than to make.
        columns = zip(
            found.boxes,
            found.scores.tolist(),
            found.landmarks,
            landmarks_from,
            visible,
            crops if options.with_crop else unknown,
            embeddings,
            attributes.gender_ages or unknown,
            attributes.masks or unknown,
            attributes.liveness or unknown,
            qualities,
            strict=True,
        )
        return [
            Face(
                image_index=job.index, box=box, score=score, landmarks=landmarks, landmarks_from=origin, visible=share,
                crop=crop, embedding=embedding, gender_age=gender_age, mask=mask, liveness=liveness, quality=quality,
            )
            for box, score, landmarks, origin, share, crop, embedding, gender_age, mask, liveness, quality in columns
        ]  # fmt: skip

    async def _align(self, job: PictureJob, picture: LoadedPicture, faces: Detections) -> list[Crop]:
        started = time.perf_counter()
        crops = await align_faces(self._pool, picture.pixels, faces.landmarks)
        job.add(align_s=time.perf_counter() - started)
        return crops

    async def _measure(
        self, job: PictureJob, picture: LoadedPicture, found: Detections, crops: Sequence[Crop]
    ) -> list[Quality]:
        image_hw = picture.source_hw

        def measure() -> list[Quality]:
            return [
                measure_quality(crop, box, landmarks, image_hw)
                for crop, box, landmarks in zip(crops, found.boxes, found.landmarks, strict=True)
            ]

        started = time.perf_counter()
        measured = await self._pool.run(measure)
        job.add(attributes_s=time.perf_counter() - started)
        return measured

    async def _recognize(self, job: PictureJob, crops: Sequence[Crop]) -> list[Embedding]:
        if self._recognizer is None:  # pragma: no cover - `check` has refused the request
            raise ModelError("No recognizer is configured.")
        outcome = await self._recognizer.embed(crops, group=job.group, deadline=job.deadline)
        job.add(recognize_s=outcome.took_s, queue_s=outcome.queued_s)
        return outcome.embeddings
