"""Kept faces to what a request wants of them: crops, quality, embeddings, attributes."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetface.domain import (
    Crop,
    Detections,
    Embedding,
    ExtractOptions,
    Face,
    LandmarksFrom,
    PictureResult,
    Quality,
    Vector,
)
from jetface.errors import ModelError
from jetface.geometry.alignment import CROP_SIDE_PX, TEMPLATE, align, visible_shares
from jetface.geometry.quality import measure_quality
from jetface.imaging.loader import LoadedPicture
from jetface.models.store import ModelStore
from jetface.pipeline.attributes import Attributes
from jetface.pipeline.pictures import PictureJob, WorkPool

_FEW_FACES = 2
"""Faces that are aligned (0.08 ms each) in less time than a hop to another thread and back takes."""

_SMALL_PICTURE_PX = 2**21
"""Pixels of a picture whose faces, were they noisy and as large as it is, are shrunk in a few milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecognizerOutcome:
    """What the recognizer said of some crops."""

    embeddings: list[Embedding]
    """One per crop, in order."""
    queued_s: float
    took_s: float
    """Wall seconds without the queue."""


class Recognizer:
    """The recognition stage. Stateless but for the model it uses; any number of calls at once."""

    def __init__(self, store: ModelStore, model_name: str) -> None:
        self.model_name = model_name
        self._store = store

    async def embed(self, crops: Sequence[Crop], *, group: Hashable, deadline: float) -> RecognizerOutcome:
        """Embed aligned crops.

        Args:
            crops: Aligned faces.
            group: The request they belong to; requests take turns in the queue.
            deadline: `loop.time()` after which the answer is of no use.

        Raises:
            NotLoaded: The recognizer is not loaded.
            CapacityError: Queue full, deadline passed, shutting down.
            InferenceError: The run failed.
        """
        model = self._store.at_once(self.model_name)
        started = time.perf_counter()
        with model.users:
            outcome = await model.batcher.submit(list(crops), group=group, deadline=deadline)
        return RecognizerOutcome(
            embeddings=outcome.results,
            queued_s=outcome.queued_s,
            took_s=time.perf_counter() - started - outcome.queued_s,
        )


def leading_vector(result: PictureResult) -> Vector | None:
    """Return the embedding of a picture's first face; None when it has none."""
    if not result.faces or result.faces[0].embedding is None:
        return None
    return result.faces[0].embedding.vector


def similarities(first: Sequence[Vector | None], second: Sequence[Vector | None]) -> NDArray[np.float32]:
    """Compare every embedding of `first` with every one of `second`.

    Args:
        first: N unit vectors of one length; None where there is no face.
        second: M of them.

    Returns:
        (N, M) float32 cosine similarity in [-1, 1]; NaN where either has no face.
    """
    length = next((len(vector) for vector in (*first, *second) if vector is not None), 1)
    with np.errstate(invalid="ignore"):
        product: NDArray[np.float32] = np.clip(_rows(first, length) @ _rows(second, length).T, -1, 1)
    return product


def _rows(vectors: Sequence[Vector | None], length: int) -> NDArray[np.float32]:
    rows = np.full((len(vectors), length), np.nan, np.float32)
    for index, vector in enumerate(vectors):
        if vector is not None:
            rows[index] = vector
    return rows


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
        names = [self._recognizer.model_name] if options.with_embedding and self._recognizer else []
        return [*names, *self._attributes.models(options.attributes)] if options.attributes else names

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
            options.with_embedding
            or options.with_crop
            or options.with_quality
            or (bool(options.attributes) and self._attributes.needs_crops(options.attributes))
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
        told: dict[str, list[Any]] = {}
        if options.attributes:
            outcome = await self._attributes.read(
                found.boxes, crops, picture, options.attributes, group=job.group, deadline=job.deadline
            )
            job.add(attributes=outcome.took_s, queue=outcome.queued_s)
            told = outcome.values
        # Each is made once, with all that is known: a face costs more to copy than to make.
        columns = zip(
            found.boxes,
            found.scores.tolist(),
            found.landmarks,
            landmarks_from,
            visible,
            crops if options.with_crop else unknown,
            embeddings,
            qualities,
            [dict(zip(told, values, strict=True)) for values in zip(*told.values(), strict=True)] if told else unknown,
            strict=True,
        )
        return [
            Face(
                image_index=job.index, box=box, score=score, landmarks=landmarks, landmarks_from=origin, visible=share,
                crop=crop, embedding=embedding, quality=quality, attributes=attributes or {},
            )
            for box, score, landmarks, origin, share, crop, embedding, quality, attributes in columns
        ]  # fmt: skip

    async def _align(self, job: PictureJob, picture: LoadedPicture, faces: Detections) -> list[Crop]:
        started = time.perf_counter()
        image, landmarks = picture.pixels, faces.landmarks
        if len(landmarks) <= _FEW_FACES and image.shape[0] * image.shape[1] <= _SMALL_PICTURE_PX:
            crops = [align(image, points) for points in landmarks]
        else:  # in one call, so that a crowd does not flood the pool
            crops = await self._pool.run(lambda: [align(image, points) for points in landmarks])
        job.add(align=time.perf_counter() - started)
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
        job.add(attributes=time.perf_counter() - started)
        return measured

    async def _recognize(self, job: PictureJob, crops: Sequence[Crop]) -> list[Embedding]:
        if self._recognizer is None:  # pragma: no cover - `check` has refused the request
            raise ModelError("No recognizer is configured.")
        outcome = await self._recognizer.embed(crops, group=job.group, deadline=job.deadline)
        job.add(recognize=outcome.took_s, queue=outcome.queued_s)
        return outcome.embeddings
