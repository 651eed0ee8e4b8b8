"""What exporters put around a model is taken off: suppression inside, channels last, a cast of pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from jetface.domain import Image
from jetface.errors import ModelContractError
from jetface.graphs.exports import before_suppression, channels_first
from jetface.graphs.parts import shape_of, take_apart
from jetface.graphs.prepare import PreparedGraph, prepare_graph
from jetface.heads.canvases import DetectorItem, LooksHead
from jetface.heads.families import FAMILIES
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import arcface_model
from tests.support.tiny_yolo import DISTANCES, SCORE, SEEN_STRIDE_PX, Export, yolo_model, yolo_spec

CANVAS_HW = (64, 96)
RED, BLUE = (0, 0, 255), (255, 0, 0)


def box_at(row: int, column: int) -> list[float]:
    """Return the corners of the box of a cell of the level that sees."""
    x, y = (column + 0.5) * SEEN_STRIDE_PX, (row + 0.5) * SEEN_STRIDE_PX
    left, top, right, bottom = (distance * SEEN_STRIDE_PX for distance in DISTANCES)
    return [x - left, y - top, x + right, y + bottom]


def canvas_with(*cells: tuple[int, int, tuple[int, int, int]]) -> Image:
    """Return a black canvas with cells in colours."""
    canvas = np.zeros((*CANVAS_HW, 3), np.uint8)
    for row, column, color in cells:
        y, x = row * SEEN_STRIDE_PX, column * SEEN_STRIDE_PX
        canvas[y : y + SEEN_STRIDE_PX, x : x + SEEN_STRIDE_PX] = color
    return canvas


def prepared(folder: Path, export: Export, *, num_classes: int, batch: int | str = 1) -> PreparedGraph:
    path = folder / "tiny_yolo.onnx"
    path.write_bytes(yolo_model(export, CANVAS_HW, num_classes=num_classes, batch=batch))
    return prepare_graph(path, yolo_spec(CANVAS_HW), pixels=True)


@pytest.mark.parametrize("batch", [1, "batch"])
@pytest.mark.parametrize("num_classes", [1, 2])
@pytest.mark.parametrize("export", ["cells last", "cells first", "end to end"])
def test_every_export_finds_the_same_boxes(tmp_path: Path, export: Export, num_classes: int, batch: int | str) -> None:
    """Of several canvases in one run, whatever their exporter fixed, and of any class."""
    graph = prepared(tmp_path, export, num_classes=num_classes, batch=batch)
    assert graph.is_batch_free
    assert graph.input_hw == CANVAS_HW
    (backend,) = open_onnx_backends(graph.model, max_batch_size=2)
    head = FAMILIES["yolo"].probe(yolo_spec(CANVAS_HW), backend, CANVAS_HW, takes_pixels=True).head
    assert isinstance(head, LooksHead)
    canvases = [canvas_with((0, 1, RED), (3, 4, BLUE)), canvas_with((2, 2, RED))]
    both, one = head.detector.run(backend, [DetectorItem(canvas, 0.5) for canvas in canvases])
    expected = [box_at(0, 1), box_at(3, 4)] if num_classes == 2 else [box_at(0, 1)]
    np.testing.assert_allclose(both.boxes[np.argsort(both.boxes[:, 1])], expected, atol=1e-3)
    np.testing.assert_allclose(one.boxes, [box_at(2, 2)], atol=1e-3)
    np.testing.assert_allclose(one.scores, [SCORE], atol=1e-5)


def test_suppression_is_cut_off_with_all_behind_it() -> None:
    parts = before_suppression(take_apart(yolo_model("end to end", CANVAS_HW, num_classes=2)))
    assert not {"NonMaxSuppression", "GatherND", "ArgMax"} & {node.op_type for node in parts.nodes}
    # Not the boxes that were moved apart by class.
    assert [end.name for end in parts.outputs] == ["boxes", "best_last"]
    assert not {"farthest", "most", "overlap"} & parts.weights.keys()


def test_graphs_without_it_stay_as_they_are() -> None:
    parts = take_apart(yolo_model("cells last", CANVAS_HW, num_classes=2))
    assert before_suppression(parts) is parts
    other = take_apart(arcface_model())
    assert channels_first(other) is other


def test_rows_of_another_length_are_refused_with_what_was_found(tmp_path: Path) -> None:
    """Six numbers a row: whose they are nobody says."""
    model = onnx.load_from_string(yolo_model("end to end", CANVAS_HW, num_classes=1))
    model.graph.node[-1].input.remove("kept_kinds")
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    path = tmp_path / "tiny_yolo.onnx"
    path.write_bytes(model.SerializeToString())
    graph = prepare_graph(path, yolo_spec(CANVAS_HW))
    (backend,) = open_onnx_backends(graph.model)
    with pytest.raises(ModelContractError, match=r"found outputs \[0, 6\]"):
        FAMILIES["yolo"].probe(yolo_spec(CANVAS_HW), backend, CANVAS_HW)


def last_channels_model(kind: int, *, casts: bool) -> bytes:
    """Return the means of (N, 4, 6, 3) pixels by channel."""
    nodes = [helper.make_node("Cast", ["pixels"], ["numbers"], to=TensorProto.FLOAT)] if casts else []
    nodes.append(helper.make_node("ReduceMean", ["numbers" if casts else "pixels"], ["means"], axes=[1, 2], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "last",
        [helper.make_tensor_value_info("pixels", kind, ["N", 4, 6, 3])],
        [helper.make_tensor_value_info("means", TensorProto.FLOAT, ["N", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(("kind", "casts"), [(TensorProto.UINT8, True), (TensorProto.FLOAT, False)])
def test_channels_come_first_and_numbers_stay(kind: int, casts: bool) -> None:
    parts = channels_first(take_apart(last_channels_model(kind, casts=casts)))
    assert shape_of(parts.inputs[0]) == (None, 3, 4, 6)
    assert "Cast" not in {node.op_type for node in parts.nodes}
    (backend,) = open_onnx_backends(bytes(parts.assemble().SerializeToString()), max_batch_size=2)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 6)).astype(np.float32)
    np.testing.assert_allclose(backend.run(pixels)[0], pixels.mean(axis=(2, 3)), rtol=1e-6)


def test_bytes_that_are_not_cast_to_float_are_left_to_the_check() -> None:
    parts = take_apart(last_channels_model(TensorProto.UINT8, casts=False))
    assert channels_first(parts) is parts
