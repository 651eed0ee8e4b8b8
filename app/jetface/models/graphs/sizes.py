"""Sizes that a graph computes as it runs: what they come to, and how nodes that computed them go.

Sizes are computed on the CPU wherever the rest runs, and ONNX Runtime captures no CUDA graph of a model while one node
of it is on the CPU. What they come to is found by doing the arithmetic, at several batches and canvases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from jetface.models.graphs.parts import GraphError, GraphParts, Shape, attribute, shape_of

_CANVAS_STEP_PX = 32
"""Sides of a canvas are multiples of this."""

_SAMPLES = ((1, 2, 3), (2, 5, 1), (3, 1, 7), (1, 3, 2), (2, 7, 5))
"""Batch, and height and width in steps, at which sizes are computed.

Each side is 1, 2, 3, 5 and 7 steps long, once. A map's side is the canvas's, divided and rounded by one stride after
another. Where strides divide 32 it is linear in steps, and two samples would do; where they do not, what holds at some
of these does not at others.
"""

_ARITHMETIC = frozenset(
    {"Add", "Cast", "Ceil", "Concat", "Constant", "Div", "Floor", "Gather", "Identity", "Mul", "Shape", "Slice"}
    | {"Squeeze", "Sub", "Unsqueeze"}
)
"""What computes sizes from the shapes of maps."""


@dataclass(frozen=True, slots=True)
class SizesFound:
    """What a graph computes at one batch and canvas."""

    lengths: tuple[int, ...]
    """Of the axes of the value that the sizes are for."""
    sizes: tuple[int, ...]


def _find_sizes(parts: GraphParts, sizes: str, source: str) -> Sequence[SizesFound] | None:
    """Compute sizes at several batches and canvases; None where it cannot be told what they are.

    Args:
        parts: A graph with one (N, C, H, W) input, annotated with the lengths that are fixed, and no graphs within.
        sizes: Name of a value that is computed.
        source: Name of the value that the sizes are for.
    """
    arithmetic = _arithmetic_before(parts, sizes)
    if arithmetic is None:
        return None
    found = []
    for sample in _SAMPLES:
        shapes = _shapes_at(parts, sample)
        lengths = [length for length in shapes.get(source, (None,)) if length is not None]
        values = _evaluate(arithmetic, sizes, parts, shapes)
        if values is None or len(lengths) != len(shapes.get(source, (None,))):
            return None
        found.append(SizesFound(tuple(lengths), values))
    return found


def fix_sizes(
    parts: GraphParts,
    input_of: Callable[[onnx.NodeProto], int | None],
    constant_of: Callable[[Sequence[SizesFound]], NDArray[Any] | None],
    *,
    kept_inputs: int,
    suffix: str,
) -> GraphParts:
    """Let nodes read a constant in place of sizes that are computed, and drop what only computed them.

    Args:
        parts: A graph whose one input is (N, C, H, W), annotated with the lengths that are fixed.
        input_of: Which input of a node may be sizes for its first; None for nodes that stay.
        constant_of: What to read instead, given what was found; None where there is no such thing.
        kept_inputs: Of a node that is changed, the first ones; the constant follows.
        suffix: Of the constant's name, behind that of what the node makes.

    Returns:
        `parts` itself where nothing is changed.
    """
    if parts.has_subgraphs:
        return parts
    changed = parts
    for node in parts.nodes:
        which = input_of(node)
        if which is None or not _is_computed(node.input[which], parts):
            continue
        found = _find_sizes(changed, node.input[which], node.input[0])
        constant = constant_of(found) if found else None
        if constant is not None:
            changed = _with_constant(changed, node, kept_inputs, f"{node.output[0]}/{suffix}", constant)
    return parts if changed is parts else _without_unread(changed)


def _is_computed(name: str, parts: GraphParts) -> bool:
    """Whether an input of a node is there and is no weight."""
    return bool(name) and name not in parts.weights


def _with_constant(
    parts: GraphParts, node: onnx.NodeProto, kept_inputs: int, name: str, value: NDArray[Any]
) -> GraphParts:
    """Let a node read, after the first of its inputs, a constant in place of all the others."""
    fixed = onnx.NodeProto()
    fixed.CopyFrom(node)
    fixed.input[:] = [*node.input[:kept_inputs], name]
    nodes = [fixed if other is node else other for other in parts.nodes]
    return parts.replace(nodes=nodes, new_weights={name: value})


def _without_unread(parts: GraphParts) -> GraphParts:
    """Drop nodes whose values nobody reads, and what only they read."""
    read = {end.name for end in parts.outputs}
    kept = []
    for node in reversed(parts.nodes):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read.update(node.input)
    return parts.replace(nodes=kept[::-1])


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
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - 15 ms that only those pay who compute sizes

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
