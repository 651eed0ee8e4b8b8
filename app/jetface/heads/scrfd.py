"""The `scrfd` family: canvases to faces, for every way SCRFD is exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from jetface.domain import Boxes, Detections, Landmarks, Tensor
from jetface.errors import InferenceError, ModelContractError
from jetface.geometry.anchors import anchor_centers, decode_boxes, decode_landmarks
from jetface.heads.canvases import STRIDES_PX, Candidates, CanvasHead, passing
from jetface.heads.family import Family
from jetface.registry import InputSpec, ModelSpec

LANDMARKS_IN_BOX = np.array([[0.29, 0.37], [0.74, 0.37], [0.53, 0.57], [0.34, 0.74], [0.70, 0.74]], np.float32)
"""(5, 2) where landmarks lie in a box, as fractions of its sides. Measured: middle of mean and median over 137 faces
that det_500m finds in group pictures. Stands in for landmarks where a graph has none."""
LANDMARKS_IN_BOX.setflags(write=False)

_SCORE, _BOX, _LANDMARKS = 1, 4, 10


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


class Scrfd(CanvasHead):
    """Runs a SCRFD graph on canvases."""

    def __init__(self, spec: ModelSpec, layout: ScrfdLayout, *, takes_pixels: bool = False) -> None:
        """Create a detector.

        Args:
            spec: Its registry entry.
            layout: What `read_layout` says of its graph.
            takes_pixels: The graph normalises pixels itself.
        """
        super().__init__(spec, is_batched=layout.is_batched, takes_pixels=takes_pixels)
        self.layout = layout

    @classmethod
    def learn(
        cls, spec: ModelSpec, outputs: Sequence[Tensor], canvas_hw: tuple[int, int], *, takes_pixels: bool
    ) -> Self:
        """Create a detector for a graph with these outputs; args and errors are those of `read_layout`."""
        return cls(spec, read_layout(outputs, canvas_hw), takes_pixels=takes_pixels)

    def decode(
        self, outputs: Sequence[Tensor], canvas_hw: tuple[int, ...], thresholds: Sequence[float]
    ) -> list[Candidates]:
        """Threshold the scores; distances around the anchors of those that pass become boxes and landmarks."""
        found = (self._decode_level(level, outputs, canvas_hw, thresholds) for level in self.layout.levels)
        return [level for level in found if level is not None]

    def _decode_level(
        self, level: ScrfdLevel, outputs: Sequence[Tensor], canvas_hw: tuple[int, ...], thresholds: Sequence[float]
    ) -> Candidates | None:
        stride_px, num_anchors = level.stride_px, self.layout.num_anchors
        of_canvas = (len(thresholds), (canvas_hw[0] // stride_px) * (canvas_hw[1] // stride_px) * num_anchors)
        for position in (level.scores, level.boxes, level.landmarks):
            if position is not None and outputs[position].shape[:2] != of_canvas:
                raise InferenceError("The detector's outputs are not those of this canvas.")
        passed = passing(outputs[level.scores], thresholds)
        if passed is None:
            return None
        centers = anchor_centers(passed.anchors, width_px=canvas_hw[1], stride_px=stride_px, num_anchors=num_anchors)
        boxes = decode_boxes(centers, passed.of(outputs[level.boxes]), stride_px=stride_px)
        if level.landmarks is None:
            placed = Detections(boxes, passed.scores, place_landmarks(boxes), np.full(len(boxes), "box"))
            return Candidates(passed.items, placed)
        landmarks = decode_landmarks(centers, passed.of(outputs[level.landmarks]), stride_px=stride_px)
        return Candidates(passed.items, Detections(boxes, passed.scores, landmarks))


def place_landmarks(boxes: Boxes) -> Landmarks:
    """Guess (N, 5, 2) landmarks of (N, 4) boxes: where an upright face has them.

    For graphs that have no landmark outputs. Such a detector serves, but crops of turned faces are aligned poorly and
    their embeddings are worse for it.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    landmarks: Landmarks = boxes[:, None, :2] + LANDMARKS_IN_BOX * sides[:, None, :]
    return landmarks


FAMILY = Family(
    task="detection",
    head=Scrfd,
    usual_input=InputSpec(height_px=0, width_px=0, mean=127.5, std=128.0),
    takes=frozenset({"score_threshold"}),
    variable="DET_MODEL",
)
