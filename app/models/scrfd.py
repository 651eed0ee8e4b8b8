"""The `scrfd` family: canvases to faces, for every way SCRFD is exported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.backends.protocol import Backend
from app.domain import Boxes, Detections, Image, Landmarks, Tensor
from app.errors import InferenceError, ModelContractError
from app.geometry.anchors import anchor_centers, decode_boxes, decode_landmarks
from app.geometry.boxes import MAX_CANDIDATES, box_areas, suppress_overlaps
from app.geometry.tensors import to_blob
from app.specs import ModelSpec

STRIDES_PX = (8, 16, 32)
"""Pixels between anchors of the three levels. Source: insightface `SCRFD`, exports with 6 or 9 outputs."""

LANDMARKS_IN_BOX = np.array([[0.29, 0.37], [0.74, 0.37], [0.53, 0.57], [0.34, 0.74], [0.70, 0.74]], np.float32)
"""(5, 2) where landmarks lie in a box, as fractions of its sides. Measured: middle of mean and median over 137 faces
that det_500m finds in group pictures. Stands in for landmarks where a graph has none."""
LANDMARKS_IN_BOX.setflags(write=False)

_SCORE, _BOX, _LANDMARKS = 1, 4, 10


@dataclass(frozen=True, slots=True, eq=False)
class DetectorItem:
    """One canvas for the detector."""

    canvas: Image
    """(H, W, 3) uint8 BGR, sides multiples of 32."""
    score_threshold: float
    """Least score of a face, [0, 1]."""


@dataclass(frozen=True, slots=True)
class ScrfdLevel:
    """Where in a graph's outputs one stride is found."""

    stride_px: int
    scores: int
    """Position of the output, as of the next two."""
    boxes: int
    landmarks: int | None


@dataclass(frozen=True, slots=True)
class ScrfdLayout:
    """How a graph lays out its answer."""

    levels: tuple[ScrfdLevel, ...]
    num_anchors: int
    """Anchors in each cell."""
    is_batched: bool
    """Outputs are (N, anchors, C); otherwise (anchors, C), and one canvas is run at a time."""


def read_layout(outputs: Sequence[NDArray[np.float32]], canvas_hw: tuple[int, int]) -> ScrfdLayout:
    """Find out what each output is, from a run of one canvas.

    Decided by what came out, not by names, order or annotations, which differ between exports and are often stale:
    the last axis tells scores (1), boxes (4) and landmarks (10) apart, the number of anchors the stride.

    Args:
        outputs: All outputs of a run with one canvas: (anchors, C) or (1, anchors, C).
        canvas_hw: Height and width of that canvas, multiples of 32.

    Raises:
        ModelContractError: These are not the outputs of SCRFD; the message says what was found.
    """
    shapes = [output.shape for output in outputs]
    found = f"found outputs {', '.join(str(list(shape)) for shape in shapes)} for a canvas of {canvas_hw}"
    ranks = {len(shape) for shape in shapes}
    if ranks not in ({2}, {3}) or any(shape[-1] not in (_SCORE, _BOX, _LANDMARKS) for shape in shapes):
        raise ModelContractError(f"SCRFD has outputs [anchors, C] or [N, anchors, C], C one of 1, 4, 10; {found}.")
    if ranks == {3} and any(shape[0] != 1 for shape in shapes):
        raise ModelContractError(f"SCRFD answers one canvas with one row; {found}.")

    def by_stride(last_axis: int) -> list[int]:
        """Positions of the outputs of one kind, finest stride (most anchors) first."""
        kind = [position for position, shape in enumerate(shapes) if shape[-1] == last_axis]
        return sorted(kind, key=lambda position: -shapes[position][-2])

    scores, boxes, landmarks = by_stride(_SCORE), by_stride(_BOX), by_stride(_LANDMARKS)
    if not len(scores) == len(boxes) == len(STRIDES_PX) or len(landmarks) not in (0, len(STRIDES_PX)):
        raise ModelContractError(f"SCRFD has 3 score, 3 box and 3 or no landmark outputs; {found}.")
    cells = [(canvas_hw[0] // stride_px) * (canvas_hw[1] // stride_px) for stride_px in STRIDES_PX]
    num_anchors = shapes[scores[0]][-2] // cells[0]
    for kind in filter(None, (scores, boxes, landmarks)):
        if num_anchors < 1 or [shapes[position][-2] for position in kind] != [num_anchors * count for count in cells]:
            raise ModelContractError(
                f"SCRFD has the same number of anchors in each cell of strides 8, 16, 32; {found}."
            )
    if any(not ((outputs[position] >= 0) & (outputs[position] <= 1)).all() for position in scores):
        raise ModelContractError("SCRFD's scores lie in [0, 1]; found others: the graph lacks its sigmoid.")
    levels = tuple(
        ScrfdLevel(stride_px, scores[index], boxes[index], landmarks[index] if landmarks else None)
        for index, stride_px in enumerate(STRIDES_PX)
    )
    return ScrfdLayout(levels, num_anchors, is_batched=ranks == {3})


class Scrfd:
    """Runs a SCRFD graph on canvases. Stateless; as thread-safe as the backend it is given."""

    def __init__(self, spec: ModelSpec, layout: ScrfdLayout) -> None:
        """Create a detector.

        Args:
            spec: Its registry entry.
            layout: What `read_layout` says of its graph.
        """
        self.spec = spec
        self.layout = layout

    @classmethod
    def probe(cls, spec: ModelSpec, backend: Backend, canvas_hw: tuple[int, int]) -> Scrfd:
        """Create a detector for the graph in `backend`, learning its layout from one run on a black canvas.

        Args:
            spec: Its registry entry.
            backend: Owned by the calling thread for the duration of the call.
            canvas_hw: A canvas the graph takes: its fixed size, else any multiples of 32.

        Raises:
            ModelContractError: The graph is not SCRFD.
            InferenceError: The run failed.
        """
        outputs = backend.run(cls._blob(spec, [np.zeros((*canvas_hw, 3), np.uint8)]))
        return cls(spec, read_layout(outputs, canvas_hw))

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
        found: list[Detections] = []
        for chunk in self._chunks(items, backend.max_batch_size if self.layout.is_batched else 1):
            outputs = backend.run(self._blob(self.spec, [item.canvas for item in chunk]))
            rows = [output if self.layout.is_batched else output[None] for output in outputs]
            found += [
                self._decode([row[index] for row in rows], item.canvas.shape[:2], item.score_threshold)
                for index, item in enumerate(chunk)
            ]
        return found

    @staticmethod
    def _blob(spec: ModelSpec, canvases: Sequence[Image]) -> NDArray[np.float32]:
        return to_blob(canvases, mean=spec.input.mean, std=spec.input.std, channel_order=spec.input.channel_order)

    @staticmethod
    def _chunks(items: Sequence[DetectorItem], max_length: int) -> Iterator[Sequence[DetectorItem]]:
        """Split into runs of at most `max_length` neighbours of one canvas size."""
        start = 0
        for stop in range(1, len(items) + 1):
            is_full = stop - start == max_length
            if stop == len(items) or is_full or items[stop].canvas.shape != items[start].canvas.shape:
                yield items[start:stop]
                start = stop

    def _decode(self, outputs: Sequence[Tensor], canvas_hw: tuple[int, ...], score_threshold: float) -> Detections:
        """Turn the rows of one canvas, each (anchors, C), into faces."""
        parts = [self._decode_level(level, outputs, canvas_hw, score_threshold) for level in self.layout.levels]
        faces = Detections.concatenate(parts)
        if not np.isfinite(faces.boxes).all() or not np.isfinite(faces.landmarks).all():
            raise InferenceError("The detector's boxes are not finite.")
        faces = faces.take(box_areas(faces.boxes) > 0)
        return faces.take(suppress_overlaps(faces.boxes, faces.scores))

    def _decode_level(
        self, level: ScrfdLevel, outputs: Sequence[Tensor], canvas_hw: tuple[int, ...], score_threshold: float
    ) -> Detections:
        scores = outputs[level.scores][:, 0]
        height, width = (side // level.stride_px for side in canvas_hw)
        if len(scores) != height * width * self.layout.num_anchors:
            raise InferenceError("The detector's outputs are not those of this canvas.")
        # A sum is not finite when a part of it is not: one pass without a temporary array.
        if not np.isfinite(scores.sum()):
            raise InferenceError("The detector's scores are not finite.")
        passed = np.flatnonzero(scores >= score_threshold)
        if len(passed) > MAX_CANDIDATES:
            passed = passed[np.argsort(-scores[passed], kind="stable")[:MAX_CANDIDATES]]
        centers = anchor_centers(
            passed, width_px=canvas_hw[1], stride_px=level.stride_px, num_anchors=self.layout.num_anchors
        )
        boxes = decode_boxes(centers, outputs[level.boxes][passed], stride_px=level.stride_px)
        if level.landmarks is None:
            landmarks = place_landmarks(boxes)
        else:
            landmarks = decode_landmarks(centers, outputs[level.landmarks][passed], stride_px=level.stride_px)
        return Detections(boxes, scores[passed], landmarks)


def place_landmarks(boxes: Boxes) -> Landmarks:
    """Guess (N, 5, 2) landmarks of (N, 4) boxes: where an upright face has them.

    For graphs that have no landmark outputs. Such a detector serves, but crops of turned faces are aligned poorly and
    their embeddings are worse for it.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    landmarks: Landmarks = boxes[:, None, :2] + LANDMARKS_IN_BOX * sides[:, None, :]
    return landmarks
