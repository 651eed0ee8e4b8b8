"""What all detectors share: canvases in, faces out, whatever the graph says in between."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from app.backends.protocol import Backend
from app.domain import Batch, Detections, Image, Tensor
from app.errors import InferenceError
from app.geometry.boxes import MAX_CANDIDATES, box_areas, suppress_overlaps
from app.models.graphs.pixels import to_batch
from app.specs import ModelSpec

STRIDES_PX = (8, 16, 32)
"""Pixels between anchors of the three levels that the detectors we know have."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectorItem:
    """One canvas for the detector."""

    canvas: Image
    """(H, W, 3) uint8 BGR, sides multiples of 32."""
    score_threshold: float
    """Least score of a face, [0, 1]."""


class CanvasHead(ABC):
    """Runs a graph on canvases; a family adds what its outputs mean.

    Stateless; as thread-safe as the backend it is given.
    """

    def __init__(self, spec: ModelSpec, *, is_batched: bool, takes_pixels: bool = False) -> None:
        """Create a detector.

        Args:
            spec: Its registry entry.
            is_batched: Outputs are (N, anchors, C); otherwise (anchors, C), and one canvas is run at a time.
            takes_pixels: The graph normalises pixels itself.
        """
        self.spec = spec
        self.takes_pixels = takes_pixels
        self.is_batched = is_batched

    @classmethod
    def probe(
        cls, spec: ModelSpec, backend: Backend, canvas_hw: tuple[int, int], *, takes_pixels: bool = False
    ) -> Self:
        """Create a detector for the graph in `backend`, learning what its outputs are from one run on a black canvas.

        Args:
            spec: Its registry entry.
            backend: Owned by the calling thread for the duration of the call.
            canvas_hw: A canvas the graph takes: its fixed size, else any multiples of 32.
            takes_pixels: The graph normalises pixels itself.

        Raises:
            ModelContractError: The graph is not of this family.
            InferenceError: The run failed.
        """
        canvas = np.zeros((*canvas_hw, 3), np.uint8)
        outputs = backend.run(cls.batch(spec, [canvas], takes_pixels=takes_pixels))
        return cls.learn(spec, outputs, canvas_hw, takes_pixels=takes_pixels)

    @classmethod
    @abstractmethod
    def learn(
        cls, spec: ModelSpec, outputs: Sequence[Tensor], canvas_hw: tuple[int, int], *, takes_pixels: bool
    ) -> Self:
        """Create a detector, given all outputs of a run with one canvas of this size.

        Raises:
            ModelContractError: These are not the outputs of this family.
        """

    def run(self, backend: Backend, items: Sequence[DetectorItem]) -> list[Detections]:
        """Detect the faces on each canvas.

        Args:
            backend: The loaded graph, owned by the calling thread.
            items: Canvases; those next to each other that are of one size share runs.

        Returns:
            Per item, in order: faces in canvas pixels whose score reaches the item's threshold, best first, overlaps
            suppressed at IoU 0.4.

        Raises:
            InferenceError: The run failed, or its outputs are not finite or not of the probed layout.
        """
        return [faces.take(suppress_overlaps(faces.boxes, faces.scores)) for faces in self.candidates(backend, items)]

    def candidates(self, backend: Backend, items: Sequence[DetectorItem]) -> list[Detections]:
        """Detect as `run` does, and return what anchors say before overlaps are suppressed, in no order."""
        found: list[Detections] = []
        for chunk in self._chunks(items, backend.max_batch_size if self.is_batched else 1):
            outputs = backend.run(
                self.batch(self.spec, [item.canvas for item in chunk], takes_pixels=self.takes_pixels)
            )
            rows = [output if self.is_batched else output[None] for output in outputs]
            found += [
                self._candidates([row[index] for row in rows], item.canvas.shape[:2], item.score_threshold)
                for index, item in enumerate(chunk)
            ]
        return found

    @abstractmethod
    def decode(self, outputs: Sequence[Tensor], canvas_hw: tuple[int, ...], score_threshold: float) -> list[Detections]:
        """Turn what the graph says of one canvas into faces that reach the threshold, level by level.

        Args:
            outputs: Rows of that canvas, each (anchors, C), in the graph's order.
            canvas_hw: Its height and width, pixels.
            score_threshold: Least score, [0, 1].

        Raises:
            InferenceError: The outputs are not of the probed layout, or the scores are not finite.
        """

    @staticmethod
    def batch(spec: ModelSpec, canvases: Sequence[Image], *, takes_pixels: bool) -> Batch:
        """Put canvases of one size together, normalised as the entry says unless the graph does that."""
        return to_batch(canvases, spec.input, takes_pixels=takes_pixels)

    @staticmethod
    def _chunks(items: Sequence[DetectorItem], max_length: int) -> Iterator[Sequence[DetectorItem]]:
        """Split into runs of at most `max_length` neighbours of one canvas size."""
        start = 0
        for stop in range(1, len(items) + 1):
            is_full = stop - start == max_length
            if stop == len(items) or is_full or items[stop].canvas.shape != items[start].canvas.shape:
                yield items[start:stop]
                start = stop

    def _candidates(self, outputs: Sequence[Tensor], canvas_hw: tuple[int, ...], score_threshold: float) -> Detections:
        faces = Detections.concatenate(self.decode(outputs, canvas_hw, score_threshold))
        if not np.isfinite(faces.boxes).all() or not np.isfinite(faces.landmarks).all():
            raise InferenceError("The detector's boxes are not finite.")
        return faces.take(box_areas(faces.boxes) > 0)


def passing(scores: NDArray[np.float32], score_threshold: float) -> NDArray[np.intp]:
    """Return the (K,) positions of the scores that reach a threshold, at most the `MAX_CANDIDATES` best.

    Args:
        scores: (N,) float32 of one level.
        score_threshold: Least score, [0, 1].

    Raises:
        InferenceError: A score is not finite.
    """
    # A sum is not finite when a part of it is not: one pass without a temporary array.
    if not np.isfinite(scores.sum()):
        raise InferenceError("The detector's scores are not finite.")
    passed = np.flatnonzero(scores >= score_threshold)
    if len(passed) > MAX_CANDIDATES:
        passed = passed[np.argsort(-scores[passed], kind="stable")[:MAX_CANDIDATES]]
    return passed
