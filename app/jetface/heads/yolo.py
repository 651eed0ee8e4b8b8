"""The `yolo` family: canvases to boxes, for exports of YOLOv8, v9, v11 and their kind.

Overlaps are suppressed here; a graph that does so inside is cut before that where it is prepared.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from jetface.domain import Detections, Tensor
from jetface.errors import InferenceError, ModelContractError
from jetface.heads.canvases import STRIDES_PX, Candidates, CanvasHead, passing
from jetface.heads.family import Family
from jetface.registry import InputSpec, ModelSpec

_BOX = 4
"""Numbers of a box, before the scores of the classes: middle x and y, width, height, pixels of the canvas."""


class Layout(Enum):
    """What outputs are."""

    CELLS_LAST = "cells last"
    """One, (N, 4 + classes, cells), as Ultralytics exports it."""
    CELLS_FIRST = "cells first"
    """The same the other way round, (N, cells, 4 + classes)."""
    CORNERS = "corners"
    """Two, of a graph that was cut before its suppression: (N, cells, 4) corners, and (N, classes, cells)."""


def layout_of(outputs: Sequence[NDArray[np.float32]], canvas_hw: tuple[int, int]) -> Layout:
    """Find out how outputs lie, from a run of one canvas: by their shapes, not by names.

    Args:
        outputs: All outputs of a run with one canvas.
        canvas_hw: Height and width of that canvas, multiples of 32.

    Raises:
        ModelContractError: These are not the outputs of this family; the message says what was found.
    """
    shapes = [output.shape for output in outputs]
    num_cells = _num_cells(canvas_hw)
    found = f"found outputs {', '.join(str(list(shape)) for shape in shapes)} for a canvas of {canvas_hw}"
    if len(shapes) == 2 and shapes[0] == (1, num_cells, _BOX) and shapes[1][::2] == (1, num_cells):
        _check_scores(outputs[1])
        return Layout.CORNERS
    shape = shapes[0] if len(shapes) == 1 else ()
    if len(shape) != 3 or shape[0] != 1 or num_cells not in shape[1:]:
        raise ModelContractError(
            f"YOLO has one output [N, 4 + classes, {num_cells}] or the last two the other way round, a column for each "
            f"cell of strides 8, 16, 32, or [found, 7] from a NonMaxSuppression of these; {found}. Export it with "
            "nms=False, end2end=False."
        )
    is_last = bool(shape[2] == num_cells)
    if shape[1 if is_last else 2] <= _BOX:
        raise ModelContractError(f"YOLO has the scores of one or more classes after its boxes; {found}.")
    _check_scores(outputs[0][:, _BOX:] if is_last else outputs[0][..., _BOX:])
    return Layout.CELLS_LAST if is_last else Layout.CELLS_FIRST


def _check_scores(scores: NDArray[np.float32]) -> None:
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ModelContractError(
            "YOLO's scores lie in [0, 1]; found others: the graph lacks its sigmoid, or has more than classes."
        )


class Yolo(CanvasHead):
    """Runs a YOLO graph on canvases. The score of a cell is that of its best class; which one it is, is not told.

    Nothing has landmarks: they are zero.
    """

    def __init__(self, spec: ModelSpec, *, layout: Layout, takes_pixels: bool = False) -> None:
        """Create a detector.

        Args:
            spec: Its registry entry.
            layout: What `layout_of` says of its graph.
            takes_pixels: The graph normalises pixels itself.
        """
        super().__init__(spec, is_batched=True, takes_pixels=takes_pixels)
        self.layout = layout

    @classmethod
    def learn(
        cls, spec: ModelSpec, outputs: Sequence[Tensor], canvas_hw: tuple[int, int], *, takes_pixels: bool
    ) -> Self:
        """Create a detector for a graph with these outputs; args and errors are those of `layout_of`."""
        return cls(spec, layout=layout_of(outputs, canvas_hw), takes_pixels=takes_pixels)

    def decode(
        self, outputs: Sequence[Tensor], canvas_hw: tuple[int, ...], thresholds: Sequence[float]
    ) -> list[Candidates]:
        """Threshold the best scores; of what passes, middles and sides become corners."""
        if self.layout is Layout.CORNERS:
            places, scores = outputs[0].transpose(0, 2, 1), outputs[1]
        else:
            output = outputs[0] if self.layout is Layout.CELLS_LAST else outputs[0].transpose(0, 2, 1)
            places, scores = output[:, :_BOX], output[:, _BOX:]
        if any(part.shape[::2] != (len(thresholds), _num_cells(canvas_hw)) for part in (places, scores)):
            raise InferenceError("The detector's output is not that of this canvas.")
        passed = passing(np.ascontiguousarray(scores.max(axis=1)), thresholds)
        if passed is None:
            return []
        boxes = places[passed.items, :, passed.anchors]
        if self.layout is not Layout.CORNERS:
            middles, halves = boxes[:, :2], boxes[:, 2:] / np.float32(2)
            boxes = np.concatenate([middles - halves, middles + halves], axis=1)
        landmarks = np.zeros((len(boxes), 5, 2), np.float32)
        return [Candidates(passed.items, Detections(boxes, passed.scores, landmarks))]


def _num_cells(canvas_hw: tuple[int, ...]) -> int:
    return sum((canvas_hw[0] // stride_px) * (canvas_hw[1] // stride_px) for stride_px in STRIDES_PX)


FAMILY = Family(
    task="plate_detection",
    head=Yolo,
    usual_input=InputSpec(height_px=640, width_px=640, mean=0, std=255),
    canvas_fill=114,
    takes=frozenset({"score_threshold"}),
    variable="PLATE_DET_MODEL",
)
"""Fed as Ultralytics feeds them: RGB / 255, the rest of the canvas grey 114."""
