"""What exporters put around a model that a service does without: channels last, and suppression of overlaps inside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx.helper import make_node, make_tensor_value_info

from jetface.graphs.parts import GraphParts, Shape, attribute, shape_of

_FLOAT, _UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
_CHANNELS, _BOX = 3, 4

_SUPPRESSED_ROW = 7
"""Batch index, x1, y1, x2, y2, class, score."""


def channels_first(parts: GraphParts) -> GraphParts:
    """Let a graph that takes (N, H, W, 3), float32 or uint8, as Keras exports it, take (N, 3, H, W) float32.

    A uint8 input has to be cast to float32 by whatever reads it: then numbers are the same without that cast. Any other
    graph is returned as it is.
    """
    shape = shape_of(parts.inputs[0]) if len(parts.inputs) == 1 else None
    if shape is None or len(shape) != 4 or shape[3] != _CHANNELS or shape[1] == _CHANNELS or parts.has_subgraphs:
        return parts
    end = parts.inputs[0]
    kind = end.type.tensor_type.elem_type
    readers = [node for node in parts.nodes if end.name in node.input]
    casts = [node for node in readers if node.op_type == "Cast" and attribute(node, "to") == _FLOAT]
    if kind not in {_FLOAT, _UINT8} or (kind == _UINT8 and len(casts) < len(readers)):
        return parts
    channels_last = f"{end.name}/channels_last"
    names = dict.fromkeys((end.name, *(cast.output[0] for cast in casts)), channels_last)
    nodes = [make_node("Transpose", [end.name], [channels_last], perm=[0, 2, 3, 1])]
    nodes += [_reading(node, names) for node in parts.nodes if not any(node is cast for cast in casts)]
    axes = [length or f"{end.name}.{axis}" for axis, length in enumerate((shape[0], shape[3], *shape[1:3]))]
    return parts.replace(nodes=nodes, inputs=[make_tensor_value_info(end.name, _FLOAT, axes)])


def before_suppression(parts: GraphParts) -> GraphParts:
    """Cut a detector before the suppression of overlaps inside it: its outputs become all boxes and all their scores.

    That of YOLOv9's end-to-end export, which answers with as many rows as it found, [found, 7]: engines want shapes
    that are known, and batches rows that are told apart. The boxes are corners, (N, cells, 4), the scores (N, classes,
    cells). Boxes that were moved apart by their class, so that classes do not suppress each other, are taken from where
    they were not. Any other graph is returned as it is.
    """
    found = [node for node in parts.nodes if node.op_type == "NonMaxSuppression"]
    if len(found) != 1 or len(parts.outputs) != 1 or parts.has_subgraphs or attribute(found[0], "center_point_box", 0):
        return parts
    shapes = parts.infer_shapes()
    rows = shapes.get(parts.outputs[0].name, ())
    if len(rows) != 2 or rows[1] not in {_SUPPRESSED_ROW, None}:
        return parts
    names = (_unmoved(found[0].input[0], parts, shapes), found[0].input[1])
    return parts.replace(
        nodes=_leading_to(names, parts.nodes), outputs=[make_tensor_value_info(name, _FLOAT, None) for name in names]
    )


def _unmoved(boxes: str, parts: GraphParts, shapes: Mapping[str, Shape]) -> str:
    """Return what boxes were before one number was added to all four of each."""
    node = next((node for node in parts.nodes if boxes in node.output), None)
    if node is None or node.op_type != "Add":
        return boxes
    lengths = {name: shapes.get(name, (None,))[-1] for name in node.input}
    before = [name for name, length in lengths.items() if length == _BOX]
    return before[0] if len(before) == 1 and 1 in lengths.values() else boxes


def _leading_to(names: Iterable[str], nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes that these values need, in order."""
    needed = set(names)
    kept: list[onnx.NodeProto] = []
    for node in reversed(list(nodes)):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def _reading(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Return a node that reads other values in place of some."""
    if names.keys().isdisjoint(node.input):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    return copy
