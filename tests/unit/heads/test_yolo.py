"""The yolo family reads what YOLOv8, v9 and v11 export, with suppression inside or without, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jetface.domain import Tensor
from jetface.errors import InferenceError, ModelContractError, NotFiniteError
from jetface.heads.canvases import DetectorItem
from jetface.heads.families import FAMILIES
from jetface.heads.yolo import Layout, Yolo, layout_of
from jetface.registry import default_registry_dir, read_registry
from tests.support.function_backend import FunctionBackend

CANVAS_HW = (64, 96)
NUM_CELLS = 8 * 12 + 4 * 6 + 2 * 3
SHIPPED = read_registry([default_registry_dir()])["starter_plate"]


def output_of(
    *found: tuple[int, tuple[float, float, float, float], float], num_classes: int = 1, kind: int = 0
) -> Tensor:
    """Return (1, 4 + classes, cells): what is at some cells, middle and sides, with scores of one class."""
    output = np.zeros((1, 4 + num_classes, NUM_CELLS), np.float32)
    for cell, box, score in found:
        output[0, :4, cell] = box
        output[0, 4 + kind, cell] = score
    return output


def detected(outputs: list[Tensor], thresholds: list[float], *, swapped: bool = False) -> list[Any]:
    """Run the head on a graph that answers so: one canvas each."""
    together = np.concatenate(outputs)
    answer = np.ascontiguousarray(together.transpose(0, 2, 1)) if swapped else together
    backend = FunctionBackend(lambda batch: (answer[: len(batch)],))
    head = Yolo.probe(SHIPPED, backend, CANVAS_HW)
    canvas = np.zeros((*CANVAS_HW, 3), np.uint8)
    return head.run(backend, [DetectorItem(canvas=canvas, score_threshold=threshold) for threshold in thresholds])


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("num_classes", "kind"), [(1, 0), (3, 2)])
def test_middles_and_sides_become_corners_best_first(swapped: bool, num_classes: int, kind: int) -> None:
    output = output_of(
        (5, (40, 20, 20, 8), 0.5), (100, (70, 40, 30, 10), 0.75), (101, (10, 50, 8, 4), 0.25),
        num_classes=num_classes, kind=kind,
    )  # fmt: skip
    (found,) = detected([output], [0.4], swapped=swapped)
    np.testing.assert_array_equal(found.boxes, [[55, 35, 85, 45], [30, 16, 50, 24]])
    np.testing.assert_array_equal(found.scores, np.array([0.75, 0.5], np.float32))


def test_of_boxes_on_each_other_the_best_stays() -> None:
    output = output_of((3, (40, 20, 20, 8), 0.5), (4, (41, 20, 20, 8), 0.9), (5, (42, 20, 20, 8), 0.8))
    (found,) = detected([output], [0.1])
    np.testing.assert_array_equal(found.boxes, [[31, 16, 51, 24]])


def test_canvases_of_a_run_have_their_own_boxes_and_thresholds() -> None:
    outputs = [output_of((3, (40, 20, 20, 8), 0.5)), output_of((9, (20, 20, 10, 8), 0.5))]
    first, second = detected(outputs, [0.6, 0.5])
    assert len(first) == 0
    np.testing.assert_array_equal(second.boxes, [[15, 16, 25, 24]])


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 5, NUM_CELLS), (1, 5, NUM_CELLS)],
        [(1, 3 * NUM_CELLS, 6)],  # YOLOv5: three anchors a cell
        [(1, 300, 6)],  # YOLOv10 and later: suppressed inside
        [(0, 7)],  # suppressed inside, by an operator that is not known
        [(2, 5, NUM_CELLS)],
        [(1, 4, NUM_CELLS)],
    ],
)
def test_another_layout_is_refused_with_what_was_found(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ModelContractError) as refused:
        layout_of([np.zeros(shape, np.float32) for shape in shapes], CANVAS_HW)
    assert str(list(shapes[0])) in refused.value.message


@pytest.mark.parametrize("score", [-3.0, 1.5, np.nan])
def test_scores_that_are_none_are_refused(score: float) -> None:
    with pytest.raises(ModelContractError, match="sigmoid"):
        layout_of([output_of((0, (1, 1, 1, 1), score))], CANVAS_HW)


def test_scores_that_are_not_finite_fail_the_run() -> None:
    head = Yolo(SHIPPED, layout=Layout.CELLS_LAST)
    with pytest.raises(NotFiniteError):
        head.decode([output_of((0, (1, 1, 1, 1), np.nan))], CANVAS_HW, [0.5])


def test_an_answer_for_another_canvas_fails_the_run() -> None:
    head = Yolo(SHIPPED, layout=Layout.CELLS_LAST)
    with pytest.raises(InferenceError):
        head.decode([output_of()], (64, 64), [0.5])


def test_it_is_shown_grey_around_its_pictures() -> None:
    assert FAMILIES[SHIPPED.family].canvas_fill == 114
    assert SHIPPED.is_detector
