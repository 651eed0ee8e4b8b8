"""What all detectors share: canvases in, faces out, whatever the graph says in between.

Were each look an item of its own, the small one could start first on another lane, and the large one would find company
where it should have had all cores to itself (docs/adr/0007-lone-requests.md).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from jetface.domain import Batch, Detections, Image, Scores, Tensor
from jetface.errors import NotFiniteError
from jetface.geometry.boxes import MAX_CANDIDATES, box_areas, keep_apart_in_groups
from jetface.graphs.pixels import to_batch
from jetface.heads.lanes import Head
from jetface.registry import ModelSpec
from jetface.runtimes.backend import Backend

STRIDES_PX = (8, 16, 32)
"""Pixels between anchors of the three levels that the detectors we know have."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectorItem:
    """One canvas for the detector."""

    canvas: Image
    """(H, W, 3) uint8 BGR, sides multiples of 32."""
    score_threshold: float
    """Least score of a face, [0, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What the anchors of one level say that reach the threshold of their canvas, on all canvases of a run."""

    items: NDArray[np.intp]
    """(K,) which canvas."""
    faces: Detections
    """K faces, pixels of their canvas, in any order."""


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
    def fault(cls, spec: ModelSpec) -> str | None:
        """Say why an entry cannot be one of a detector of this kind; None where it can."""
        del spec
        return None

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
            suppressed at IoU 0.4. Items that shared a run have views of the same arrays, of rows of their own; none is
            of the backend's outputs.

        Raises:
            InferenceError: The run failed, or its outputs are not of the probed layout.
            NotFiniteError: Its outputs are not finite.
        """
        found: list[Detections] = []
        for chunk in self._chunks(items, backend.max_batch_size if self.is_batched else 1):
            found += _split(*_suppressed(*self._candidates(backend, chunk)))
        return found

    def candidates(self, backend: Backend, items: Sequence[DetectorItem]) -> list[Detections]:
        """Detect as `run` does, and return what anchors say before overlaps are suppressed, best first."""
        found: list[Detections] = []
        for chunk in self._chunks(items, backend.max_batch_size if self.is_batched else 1):
            found += _split(*self._candidates(backend, chunk))
        return found

    @abstractmethod
    def decode(
        self, outputs: Sequence[Tensor], canvas_hw: tuple[int, ...], thresholds: Sequence[float]
    ) -> list[Candidates]:
        """Turn what the graph says of some canvases into faces that reach their thresholds, level by level.

        Args:
            outputs: Each (N, anchors, C), in the graph's order; valid until the backend's next run.
            canvas_hw: Height and width of all N canvases, pixels.
            thresholds: Least score on each of them, [0, 1].

        Returns:
            Copies; levels where nothing reaches its threshold may be left out.

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

    def _candidates(self, backend: Backend, chunk: Sequence[DetectorItem]) -> tuple[Detections, list[int]]:
        """Run once; return the candidates of the first item, then those of the next, best first, and how many each."""
        outputs = backend.run(self.batch(self.spec, [item.canvas for item in chunk], takes_pixels=self.takes_pixels))
        if not self.is_batched:
            outputs = tuple(output[None] for output in outputs)
        levels = self.decode(outputs, chunk[0].canvas.shape[:2], [item.score_threshold for item in chunk])
        if not levels:
            return Detections.empty(), [0] * len(chunk)
        items = np.concatenate([level.items for level in levels])
        faces = Detections.concatenate([level.faces for level in levels])
        if not np.isfinite(faces.boxes).all() or not np.isfinite(faces.landmarks).all():
            raise NotFiniteError("The detector's boxes are not finite.")
        has_area = box_areas(faces.boxes) > 0
        if not has_area.all():
            items, faces = items[has_area], faces.take(has_area)
        return faces.take(np.lexsort((-faces.scores, items))), np.bincount(items, minlength=len(chunk)).tolist()


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """The anchors of one level that reach the threshold of their canvas, on all canvases of a run."""

    rows: NDArray[np.intp]
    """(K,) which of all canvases' anchors."""
    items: NDArray[np.intp]
    """(K,) which canvas, ascending."""
    anchors: NDArray[np.intp]
    """(K,) which of its anchors."""
    scores: Scores
    """(K,) their scores."""

    def of(self, output: Tensor) -> NDArray[np.float32]:
        """Return the (K, C) rows of an (N, anchors, C) output that belong to these anchors; a copy."""
        return output.reshape(-1, output.shape[-1]).take(self.rows, axis=0)


def passing(scores: NDArray[np.float32], thresholds: Sequence[float]) -> Passed | None:
    """Find the scores that reach the threshold of their canvas, of each canvas at most the `MAX_CANDIDATES` best.

    Args:
        scores: (N, anchors) or (N, anchors, 1) float32 of one level of N canvases, not empty.
        thresholds: Least score on each of the canvases, [0, 1].

    Returns:
        None where no score does.

    Raises:
        NotFiniteError: A score is not finite.
    """
    num_anchors = scores.shape[1]
    scores = scores.reshape(-1)
    # float32, as the scores are: 0.7 must reach a threshold of 0.7. Bits of floats from 0 on are ordered as the numbers
    # are, and those of all that is negative, infinite or no number come after: one pass over the scores tells all.
    least = np.float32(min(thresholds)) + np.float32(0)  # -0, whose bits are a negative number's, becomes 0
    rows = (scores.view(np.uint32) >= least.view(np.uint32)).nonzero()[0]
    if not len(rows):
        return None
    # What follows is done for the few that pass, of all canvases at once: a call costs more than what it computes.
    found = scores[rows]
    if not np.isfinite(found).all():
        raise NotFiniteError("The detector's scores are not finite.")
    rows = rows[found >= least]
    items = rows // num_anchors
    if max(thresholds) > min(thresholds):
        kept = scores[rows] >= np.array(thresholds, np.float32)[items]
        rows, items = rows[kept], items[kept]
    if len(rows) > MAX_CANDIDATES:
        order = np.lexsort((-scores[rows], items))
        ranks = np.arange(len(order)) - np.searchsorted(items, items)
        rows = rows[order[ranks < MAX_CANDIDATES]]
        items = rows // num_anchors
    return Passed(rows, items, rows - items * num_anchors, scores[rows]) if len(rows) else None


def _suppressed(faces: Detections, counts: list[int]) -> tuple[Detections, list[int]]:
    """Suppress overlaps among the `counts[0]` first rows, among the `counts[1]` next ones, and so on; best first."""
    if len(faces.scores) < 2:
        return faces, counts
    stops = list(itertools.accumulate(counts))
    groups = [
        (stop - count, stop - count + min(count, MAX_CANDIDATES)) for stop, count in zip(stops, counts, strict=True)
    ]
    kept = keep_apart_in_groups(faces.boxes, groups)
    return (faces if len(kept) == stops[-1] else faces.take(np.array(kept, np.intp))), [
        bisect_left(kept, stop) - bisect_left(kept, start) for start, stop in groups
    ]


def _split(faces: Detections, counts: list[int]) -> list[Detections]:
    """Return the `counts[0]` first rows, the `counts[1]` next ones, and so on; views."""
    if len(counts) == 1:
        return [faces]
    stops = list(itertools.accumulate(counts))
    return [faces.take(slice(stop - count, stop)) for stop, count in zip(stops, counts, strict=True)]


Looks: TypeAlias = tuple[DetectorItem, ...]
"""The canvases of one picture, the full one first. Items that run together have the same number of them."""


class LooksHead:
    """Runs a detector on every canvas of some pictures."""

    def __init__(self, detector: Head[DetectorItem, Detections]) -> None:
        self.detector = detector

    def run(self, backend: Backend, items: Sequence[Looks]) -> list[tuple[Detections, ...]]:
        """Detect faces; per picture the answers of its looks, in their order.

        Look by look, so that canvases of one size are neighbours and share runs.
        """
        found = self.detector.run(backend, [look for same in zip(*items, strict=True) for look in same])
        return [tuple(found[index :: len(items)]) for index in range(len(items))]


def item_key(item: Looks | Image) -> tuple[tuple[int, ...], ...] | None:
    """Return what items share that may run together: the sizes of a picture's canvases; crops all have one size."""
    return tuple([look.canvas.shape for look in item]) if isinstance(item, tuple) else None
