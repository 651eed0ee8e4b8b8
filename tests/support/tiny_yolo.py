"""Real graphs of YOLO's last layers, as its exports have them: distances in bins, anchors, strides, classes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jetface.registry import InputSpec, ModelSpec

STRIDES_PX = (8, 16, 32)
SEEN_STRIDE_PX = 16
"""The one level that sees anything."""
DISTANCES = (1, 2, 3, 1)
"""How far the left, upper, right and lower side of each box is from the middle of its cell, in cells."""
SCORE = 1 / (1 + np.exp(-6.0))
"""Of a cell in a pure colour."""

_BINS = 16
_SURE = 30.0
_FARTHEST_PX = 640.0

Export = Literal["cells last", "cells first", "end to end"]


def yolo_spec(canvas_hw: tuple[int, int]) -> ModelSpec:
    """Return an entry that fits `yolo_model`; its digest fits nothing."""
    return ModelSpec(
        name="tiny_yolo", task="plate_detection", family="yolo", license="none", source="drawn", sha256="0" * 64,
        input=InputSpec(height_px=canvas_hw[0], width_px=canvas_hw[1], mean=0, std=255),
    )  # fmt: skip


def yolo_model(export: Export, canvas_hw: tuple[int, int], *, num_classes: int, batch: int | str = 1) -> bytes:
    """Return a detector whose class 0 is what is red, and class 1 what is blue.

    Args:
        export: `cells last` as Ultralytics exports, `cells first` the other way round, `end to end` as YOLOv9 exports
            with suppression inside: rows of batch index, corners, class, score.
        canvas_hw: Height and width of its input.
        num_classes: 1 or 2.
        batch: What the input says of its batch.
    """
    height, width = canvas_hw
    channels = 4 * _BINS + num_classes
    bias = np.zeros(channels, np.float32)
    for side, distance in enumerate(DISTANCES):
        bias[side * _BINS + distance] = _SURE
    weights: dict[str, NDArray[np.generic]] = {
        "bins": np.arange(_BINS, dtype=np.float32).reshape(1, _BINS, 1, 1),
        "parts": np.array([4 * _BINS, num_classes]),
        "halves": np.array([2, 2]),
        "two": np.array(2, np.float32),
        "level": np.array([0, channels, -1]),
        "by_bin": np.array([0, 4, _BINS, -1]),
        "by_side": np.array([0, 4, -1]),
    }
    nodes = []
    middles, strides = [], []
    for stride in STRIDES_PX:
        kernel, offset = np.zeros((channels, 3, 1, 1), np.float32), bias.copy()
        offset[4 * _BINS :] = -6.0
        if stride == SEEN_STRIDE_PX:
            for kind in range(num_classes):
                kernel[4 * _BINS + kind, 2 * kind] = 12.0
        weights |= {f"kernel{stride}": kernel, f"bias{stride}": offset}
        size = [stride, stride]
        nodes += [
            helper.make_node("AveragePool", ["images"], [f"p{stride}"], kernel_shape=size, strides=size),
            helper.make_node("Conv", [f"p{stride}", f"kernel{stride}", f"bias{stride}"], [f"maps{stride}"]),
            helper.make_node("Reshape", [f"maps{stride}", "level"], [f"cells{stride}"]),
        ]
        rows, columns = np.mgrid[0 : height // stride, 0 : width // stride]
        middles.append(np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5]))
        strides.append(np.full((1, rows.size), stride))
    weights["middles"] = np.concatenate(middles, axis=1).astype(np.float32)[None]
    weights["strides"] = np.concatenate(strides, axis=1).astype(np.float32)[None]
    nodes += [
        helper.make_node("Concat", [f"cells{stride}" for stride in STRIDES_PX], ["cells"], axis=2),
        helper.make_node("Split", ["cells", "parts"], ["sides", "kinds"], axis=1),
        helper.make_node("Reshape", ["sides", "by_bin"], ["binned"]),
        helper.make_node("Transpose", ["binned"], ["bins_first"], perm=[0, 2, 1, 3]),
        helper.make_node("Softmax", ["bins_first"], ["shares"], axis=1),
        helper.make_node("Conv", ["shares", "bins"], ["mean"]),
        helper.make_node("Reshape", ["mean", "by_side"], ["distances"]),
        helper.make_node("Split", ["distances", "halves"], ["before", "behind"], axis=1),
        helper.make_node("Sub", ["middles", "before"], ["first"]),
        helper.make_node("Add", ["middles", "behind"], ["last"]),
        helper.make_node("Add", ["first", "last"], ["sum"]),
        helper.make_node("Div", ["sum", "two"], ["middle"]),
        helper.make_node("Sub", ["last", "first"], ["extent"]),
        helper.make_node("Concat", ["middle", "extent"], ["box_cells"], axis=1),
        helper.make_node("Mul", ["box_cells", "strides"], ["box_px"]),
        helper.make_node("Sigmoid", ["kinds"], ["scores"]),
        helper.make_node("Concat", ["box_px", "scores"], ["output0"], axis=1),
    ]
    output, shape = "output0", [batch, 4 + num_classes, weights["strides"].size]
    if export != "cells last":
        nodes.append(helper.make_node("Transpose", ["output0"], ["rows"], perm=[0, 2, 1]))
        output, shape = "rows", [shape[0], shape[2], shape[1]]
    if export == "end to end":
        nodes += _suppressing(weights, num_classes)
        output, shape = "found", ["found", 7]
    graph = helper.make_graph(
        nodes,
        "yolo",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, height, width])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _suppressing(weights: dict[str, NDArray[np.generic]], num_classes: int) -> list[onnx.NodeProto]:
    """Return what YOLOv9's end-to-end export puts behind the cells: corners, the best class, suppression, rows."""
    weights |= {
        "row_parts": np.array([4, num_classes]),
        "corners": np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]], np.float32),
        "farthest": np.array(_FARTHEST_PX, np.float32),
        "most": np.array([100]),
        "overlap": np.array([0.45], np.float32),
        "least": np.array([0.25], np.float32),
        "picked": np.array([0, 2]),
        "last_axis": np.array([-1]),
        "picture": np.array([0]),
    }
    return [
        helper.make_node("Split", ["rows", "row_parts"], ["row_boxes", "row_scores"], axis=2),
        helper.make_node("MatMul", ["row_boxes", "corners"], ["boxes"]),
        helper.make_node("ReduceMax", ["row_scores"], ["best"], axes=[2], keepdims=1),
        helper.make_node("ArgMax", ["row_scores"], ["kind"], axis=2, keepdims=1),
        helper.make_node("Cast", ["kind"], ["kind_number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["kind_number", "farthest"], ["moved_by"]),
        helper.make_node("Add", ["boxes", "moved_by"], ["moved"]),
        helper.make_node("Transpose", ["best"], ["best_last"], perm=[0, 2, 1]),
        helper.make_node("NonMaxSuppression", ["moved", "best_last", "most", "overlap", "least"], ["kept"]),
        helper.make_node("Gather", ["kept", "picked"], ["places"], axis=1),
        helper.make_node("GatherND", ["boxes", "places"], ["kept_boxes"]),
        helper.make_node("GatherND", ["kind_number", "places"], ["kept_kinds"]),
        helper.make_node("GatherND", ["best", "places"], ["kept_scores"]),
        helper.make_node("Gather", ["kept", "picture"], ["pictures"], axis=1),
        helper.make_node("Cast", ["pictures"], ["picture_number"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["picture_number", "kept_boxes", "kept_kinds", "kept_scores"], ["found"], axis=1),
    ]
