"""Faces to embeddings: alignment from full-resolution pixels, then the recognizer's queue."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from jetface.domain import Crop, Embedding, Image, Landmarks
from jetface.geometry.alignment import align
from jetface.models.store import ModelStore
from jetface.pipeline.pool import WorkPool

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


async def align_faces(pool: WorkPool, image: Image, landmarks: Landmarks) -> list[Crop]:
    """Cut one aligned crop per face out of `image`.

    Args:
        pool: Where the work on more than a few is done; one call a picture, so that a crowd does not flood the pool.
        image: The picture the landmarks belong to.
        landmarks: (N, 5, 2) float32 in its pixels.
    """
    if len(landmarks) <= _FEW_FACES and image.shape[0] * image.shape[1] <= _SMALL_PICTURE_PX:
        return [align(image, points) for points in landmarks]
    return await pool.run(lambda: [align(image, points) for points in landmarks])


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
