"""Upsampling by constant factors, in place of sizes that are computed as the graph runs.

SCRFD's exports write `interpolate(small, size of large)` as Shape, Gather, Slice and Concat, which make the sizes of a
Resize. Sizes are computed on the CPU wherever the rest runs, and ONNX Runtime captures no CUDA graph of a model while
one node of it is on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from app.models.graphs.parts import GraphError, GraphParts, Shape, attribute, shape_of

_CANVAS_STEP_PX = 32
"""Sides of a canvas are multiples of this."""

_SAMPLES = ((1, 2, 3), (2, 5, 1), (3, 1, 7), (2, 3, 2))
"""Batch, and height and width in steps, at which a factor has to be the same.

A map's side is the canvas's, divided and rounded by one stride after the other. Where strides divide 32 it is linear in
steps, and two samples would do; where they do not, sides are rounded at other steps than factors allow, and a factor
that is whole at 1, 2, 3, 5 and 7 steps is not found.
"""

_SIZES_INPUT = 3
"""Which input of Resize its sizes are, from operator set 11 on."""

_ARITHMETIC = frozenset(
    {"Add", "Cast", "Ceil", "Concat", "Constant", "Div", "Floor", "Gather", "Identity", "Mul", "Shape", "Slice"}
    | {"Squeeze", "Sub", "Unsqueeze"}
)
"""What computes sizes from the shapes of maps."""


def fix_upsampling(parts: GraphParts) -> GraphParts:
    """Write a Resize to sizes computed from the shapes of maps as one by constant factors, where those are whole.

    Exact to the bit, for every batch and every canvas whose sides are multiples of 32: the factor is what an operator
    divides the sizes to, and a whole one is the same number either way. Nodes that only computed sizes are dropped.

    Sizes written at export stay, and so does a factor that differs between canvases or is no whole number.

    Args:
        parts: A graph whose one input is (N, C, H, W), annotated with the lengths that are fixed.
    """
    if parts.has_subgraphs:
        return parts
    changed = parts
    for node in parts.nodes:
        if _has_computed_sizes(node, parts) and (factors := _whole_factors(changed, node)):
            changed = _with_factors(changed, node, factors)
    return parts if changed is parts else _without_unread(changed)


def _has_computed_sizes(node: onnx.NodeProto, parts: GraphParts) -> bool:
    """Whether a Resize takes sizes that another node makes, and means by them what it would mean by factors."""
    return (
        node.op_type == "Resize"
        and len(node.input) > _SIZES_INPUT
        and bool(node.input[_SIZES_INPUT])
        and node.input[_SIZES_INPUT] not in parts.weights
        # Factors come from a region, from one side for both, or are of some axes only.
        and attribute(node, "coordinate_transformation_mode", b"half_pixel") != b"tf_crop_and_resize"
        and attribute(node, "keep_aspect_ratio_policy", b"stretch") == b"stretch"
        and attribute(node, "axes") is None
    )


def _whole_factors(parts: GraphParts, node: onnx.NodeProto) -> tuple[int, ...] | None:
    """Return by what a Resize multiplies each length; None where that is not one whole number at every sample."""
    arithmetic = _arithmetic_before(parts, node.input[_SIZES_INPUT])
    if arithmetic is None:
        return None
    found = set()
    for sample in _SAMPLES:
        shapes = _shapes_at(parts, sample)
        lengths = shapes.get(node.input[0], ())
        sizes = _evaluate(arithmetic, node.input[_SIZES_INPUT], parts, shapes)
        if sizes is None or len(sizes) != len(lengths):
            return None
        for size, length in zip(sizes, lengths, strict=True):
            if not length or size < length or size % length:
                return None
        found.add(tuple(size // (length or 1) for size, length in zip(sizes, lengths, strict=True)))
    return found.pop() if len(found) == 1 else None


def _arithmetic_before(parts: GraphParts, name: str) -> Sequence[onnx.NodeProto] | None:
    """Return the nodes that make a value from shapes, in order; None where something else takes part."""
    wanted, nodes = {name}, []
    for node in reversed(parts.nodes):
        if wanted.isdisjoint(node.output):
            continue
        if node.op_type not in _ARITHMETIC:
            return None
        nodes.append(node)
        if node.op_type != "Shape":
            wanted.update(node.input)
    return None if any(value.name in wanted for value in parts.inputs) else nodes[::-1]


def _shapes_at(parts: GraphParts, sample: tuple[int, int, int]) -> Mapping[str, Shape]:
    """Return the shape of every value as far as operators tell, the free lengths of the input as the sample says."""
    (entry,) = parts.inputs
    batch, height, width = sample
    wanted = (batch, None, height * _CANVAS_STEP_PX, width * _CANVAS_STEP_PX)
    lengths = tuple(fixed or length for fixed, length in zip(shape_of(entry) or (), wanted, strict=False))
    value = onnx.helper.make_tensor_value_info(entry.name, entry.type.tensor_type.elem_type, lengths)
    try:
        return {**parts.replace(inputs=[value]).infer_shapes(), entry.name: lengths}
    except GraphError:
        return {}


def _evaluate(
    nodes: Sequence[onnx.NodeProto], name: str, parts: GraphParts, shapes: Mapping[str, Shape]
) -> tuple[int, ...] | None:
    """Return what the arithmetic makes of known shapes; None where one is not known, or it makes nothing."""
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - 15 ms that only those pay who upsample

    known: dict[str, NDArray[Any]] = {}
    for node in nodes:
        if node.op_type == "Shape":
            shape = shapes.get(node.input[0])
            if shape is None or None in shape:
                return None
            ends = slice(attribute(node, "start", 0), attribute(node, "end"))
            known[node.output[0]] = np.array(shape[ends], np.int64)
    computing = [node for node in nodes if node.op_type != "Shape"]
    if not computing:
        return tuple(map(int, known[name]))
    read = {source for node in computing for source in node.input}
    graph = onnx.helper.make_graph(
        computing,
        "sizes",
        [onnx.helper.make_tensor_value_info(key, onnx.TensorProto.INT64, [len(value)]) for key, value in known.items()],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None)],
        [weight for weight in parts.weights.values() if weight.name in read],
    )
    model = onnx.helper.make_model(graph, opset_imports=list(parts.opset_imports), ir_version=parts.ir_version)
    try:
        (sizes,) = ReferenceEvaluator(model).run(None, known)
    except Exception:  # noqa: BLE001 - the library raises whatever Python does; what cannot be told is not changed
        return None
    return tuple(map(int, np.ravel(sizes)))


def _with_factors(parts: GraphParts, node: onnx.NodeProto, factors: Sequence[int]) -> GraphParts:
    name = f"{node.output[0]}/factors"
    fixed = onnx.NodeProto()
    fixed.CopyFrom(node)
    # The region, which no mode left here reads, stays: before operator set 13 it must be there.
    fixed.input[:] = [*node.input[:2], name]
    nodes = [fixed if other is node else other for other in parts.nodes]
    return parts.replace(nodes=nodes, new_weights={name: np.array(factors, np.float32)})


def _without_unread(parts: GraphParts) -> GraphParts:
    """Drop nodes whose values nobody reads, and what only they read."""
    read = {end.name for end in parts.outputs}
    kept = []
    for node in reversed(parts.nodes):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read.update(node.input)
    return parts.replace(nodes=kept[::-1])
