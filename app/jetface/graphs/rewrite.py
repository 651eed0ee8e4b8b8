"""Rewrites that make a graph faster where it runs and leave its answers alone, up to rounding. Figures: ADR 0005.

Sizes are computed on the CPU wherever the rest runs, and ONNX Runtime captures no CUDA graph of a model while one node
of it is on the CPU. SCRFD's exports write `interpolate(small, size of large)` as Shape, Gather, Slice and Concat, which
make the sizes of a Resize; PyTorch writes `x.view(x.size(0), -1)` in the same way, as the target of a Reshape.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.helper import make_attribute, make_node

from jetface.graphs.parts import GraphError, GraphParts, Shape, attribute, shape_of

BLOCK_CHANNELS = 16
"""Channels of one block in ONNX Runtime's NCHWc layout with AVX-512; 8 with AVX2 and NEON, which divides it.

Source: ONNX Runtime, `onnxruntime/core/mlas/lib/snchwc.cpp`, `MlasNchwcGetBlockSize`.
"""

_SPLIT_TAKES_SIZES_AS_INPUT = 13
"""Operator set from which on Split has its sizes as an input in place of an attribute."""


def merge_siblings(parts: GraphParts) -> GraphParts:
    """Write convolutions of one kind over one tensor as a single one, and split its answer.

    A convolution is computed in blocks of channels, the last one padded. The heads of SCRFD have 2, 8 and 20 channels,
    64 with their padding; together they have 30, which take 32. Exact: each channel is the same sum as before.

    Only where the blocks become fewer.
    """
    siblings = defaultdict(list)
    for node in parts.nodes:
        if (kind := _kind_of(node, parts)) is not None:
            siblings[kind].append(node)
    merged = {id(nodes[0]): nodes for nodes in siblings.values() if _num_blocks_saved(nodes, parts) > 0}
    replaced = {id(node) for nodes in merged.values() for node in nodes}
    kept: list[onnx.NodeProto] = []
    new_weights: dict[str, NDArray[Any]] = {}
    for node in parts.nodes:
        if id(node) in merged:
            nodes, weights = _merge(merged[id(node)], parts)
            kept += nodes
            new_weights |= weights
        elif id(node) not in replaced:
            kept.append(node)
    return parts.replace(nodes=kept, new_weights=new_weights)


def widen_groups(parts: GraphParts) -> GraphParts:
    """Join the groups of a grouped convolution until each has a block of input channels, the new weights zero.

    ONNX Runtime has blocked kernels for groups of one channel and of whole blocks. Groups in between are run one by one
    in the plain layout, so slowly that eight times the sums in blocks take half the time. Exact up to rounding, zeros
    being added; where a value is not finite it now spreads to its block.
    """
    nodes: list[onnx.NodeProto] = []
    new_weights: dict[str, NDArray[Any]] = {}
    for node in parts.nodes:
        weights = parts.constant(node.input[1]) if node.op_type == "Conv" else None
        widened = None if weights is None else _join_groups(weights, attribute(node, "group", 1))
        if widened is None:
            nodes.append(node)
            continue
        weights, num_groups = widened
        name = f"{node.output[0]}/wide"
        new_weights[name] = weights
        wide = make_node("Conv", [node.input[0], name, *node.input[2:]], node.output)
        wide.attribute.extend(_attributes_but(node, "group"))
        wide.attribute.append(make_attribute("group", num_groups))
        nodes.append(wide)
    return parts.replace(nodes=nodes, new_weights=new_weights)


def _kind_of(node: onnx.NodeProto, parts: GraphParts) -> tuple[object, ...] | None:
    """Return what two convolutions must have in common to be one; None where it is none that could be."""
    if node.op_type != "Conv" or attribute(node, "group", 1) != 1:
        return None
    weights = parts.constant(node.input[1])
    if weights is None or (_has_bias(node) and parts.constant(node.input[2]) is None):
        return None
    attributes = sorted(entry.SerializeToString(deterministic=True) for entry in node.attribute)
    return (node.input[0], weights.shape[1:], weights.dtype, *attributes)


def _num_blocks_saved(nodes: Sequence[onnx.NodeProto], parts: GraphParts) -> int:
    channels = [len(weights) for node in nodes if (weights := parts.constant(node.input[1])) is not None]
    return sum(map(_num_blocks, channels)) - _num_blocks(sum(channels))


def _num_blocks(channels: int) -> int:
    return -(-channels // BLOCK_CHANNELS)


def _merge(nodes: Sequence[onnx.NodeProto], parts: GraphParts) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    weights = [weight for node in nodes if (weight := parts.constant(node.input[1])) is not None]
    biases = [
        bias if _has_bias(node) and (bias := parts.constant(node.input[2])) is not None else np.zeros(len(weight))
        for node, weight in zip(nodes, weights, strict=True)
    ]
    sizes = [len(weight) for weight in weights]
    name = f"{nodes[0].output[0]}/merged"
    new_weights = {
        f"{name}/weights": np.concatenate(weights),
        f"{name}/bias": np.concatenate(biases).astype(weights[0].dtype),
        f"{name}/sizes": np.array(sizes, np.int64),
    }
    convolution = make_node("Conv", [nodes[0].input[0], f"{name}/weights", f"{name}/bias"], [name])
    convolution.attribute.extend(nodes[0].attribute)
    outputs = [node.output[0] for node in nodes]
    if parts.opset >= _SPLIT_TAKES_SIZES_AS_INPUT:
        split = make_node("Split", [name, f"{name}/sizes"], outputs, axis=1)
    else:
        split = make_node("Split", [name], outputs, axis=1, split=sizes)
    return [convolution, split], new_weights


def _join_groups(weights: NDArray[Any], num_groups: int) -> tuple[NDArray[Any], int] | None:
    """Return (C, 16, ...) weights and the number of groups they make; None where groups do not add up to blocks."""
    outputs, inputs = len(weights) // num_groups, weights.shape[1]
    if num_groups == 1 or not 1 < inputs < BLOCK_CHANNELS or BLOCK_CHANNELS % inputs:
        return None
    joined = BLOCK_CHANNELS // inputs
    if num_groups % joined or outputs * joined % BLOCK_CHANNELS:
        return None
    wide = np.zeros((len(weights), BLOCK_CHANNELS, *weights.shape[2:]), weights.dtype)
    for channel, kernel in enumerate(weights):
        start = channel // outputs % joined * inputs
        wide[channel, start : start + inputs] = kernel
    return wide, num_groups // joined


def _has_bias(node: onnx.NodeProto) -> bool:
    return len(node.input) > 2 and bool(node.input[2])


def _attributes_but(node: onnx.NodeProto, name: str) -> Iterable[onnx.AttributeProto]:
    return (entry for entry in node.attribute if entry.name != name)


_CANVAS_STEP_PX = 32
"""Sides of a canvas are multiples of this."""

_SAMPLES = ((1, 2, 3), (2, 5, 1), (3, 1, 7), (1, 3, 2), (2, 7, 5))
"""Batch, and height and width in steps, at which shapes are computed.

Each side is 1, 2, 3, 5 and 7 steps long, once. A map's side is the canvas's, divided and rounded by one stride after
another. Where strides divide 32 it is linear in steps, and two samples would do; where they do not, what holds at some
of these does not at others.
"""

_ARITHMETIC = frozenset(
    {"Add", "Cast", "Ceil", "Concat", "Constant", "Div", "Floor", "Gather", "Identity", "Mul", "Shape", "Slice"}
    | {"Squeeze", "Sub", "Unsqueeze"}
)
"""What computes sizes from the shapes of maps."""

_SIZES_INPUT = 3
"""Which input of Resize its sizes are, from operator set 11 on."""

_KEPT = 0
"""What Reshape takes for the length that its input has at the same place."""

Sizes = tuple[int, ...]


def fix_sizes(parts: GraphParts) -> GraphParts:
    """Let Resize and Reshape read constants in place of sizes that are computed from the shapes of maps.

    Exact to the bit, for every batch and every canvas whose sides are multiples of 32: what a Resize multiplies by is
    the same whole number at several batches and canvases, and so is the target of a Reshape, 0 where a length is kept.
    What is not, and sizes written at export, stay. Nodes that only computed sizes are dropped.

    Args:
        parts: A graph whose one input is (N, C, H, W), annotated with the lengths that are fixed.

    Returns:
        `parts` itself where nothing is changed.
    """
    if parts.has_subgraphs or not any(_computes_sizes(node, parts) for node in parts.nodes):
        return parts
    samples = [_at(parts, sample) for sample in _SAMPLES]
    nodes: list[onnx.NodeProto] = []
    new_weights: dict[str, NDArray[Any]] = {}
    for node in parts.nodes:
        constant = _constant(node, samples) if _computes_sizes(node, parts) else None
        if constant is None:
            nodes.append(node)
            continue
        fixed = onnx.NodeProto()
        fixed.CopyFrom(node)
        name = f"{node.output[0]}/sizes"
        # A Resize's region, which no mode left here reads, stays: before operator set 13 it must be there.
        fixed.input[:] = [*node.input[: 2 if node.op_type == "Resize" else 1], name]
        new_weights[name] = constant
        nodes.append(fixed)
    if not new_weights:
        return parts
    # What is behind one that was fixed may be known now.
    return fix_sizes(_without_unread(parts.replace(nodes=nodes, new_weights=new_weights)))


def _computes_sizes(node: onnx.NodeProto, parts: GraphParts) -> bool:
    """Whether a node reads sizes that are computed, and may read constants in their place."""
    if node.op_type == "Reshape":
        # A length that is kept is written as 0.
        return not attribute(node, "allowzero", 0) and node.input[1] not in parts.weights
    return (
        node.op_type == "Resize"
        and len(node.input) > _SIZES_INPUT
        and node.input[_SIZES_INPUT] not in parts.weights
        # Factors come from a region, from one side for both, or are of some axes only.
        and attribute(node, "coordinate_transformation_mode", b"half_pixel") != b"tf_crop_and_resize"
        and attribute(node, "keep_aspect_ratio_policy", b"stretch") == b"stretch"
        and attribute(node, "axes") is None
    )


@dataclass(frozen=True, slots=True)
class _Sample:
    """What a graph computes of sizes at one batch and canvas."""

    shapes: Mapping[str, Shape]
    values: Mapping[str, NDArray[Any]]


def _at(parts: GraphParts, sample: tuple[int, int, int]) -> _Sample:
    """Compute sizes as far as operators tell, the free lengths of the input as the sample says."""
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - 15 ms that only those pay who compute sizes

    (entry,) = parts.inputs
    batch, height, width = sample
    wanted = (batch, None, height * _CANVAS_STEP_PX, width * _CANVAS_STEP_PX)
    lengths = tuple(fixed or length for fixed, length in zip(shape_of(entry) or (), wanted, strict=False))
    value = onnx.helper.make_tensor_value_info(entry.name, entry.type.tensor_type.elem_type, lengths)
    try:
        shapes = {**parts.replace(inputs=[value]).infer_shapes(), entry.name: lengths}
    except GraphError:
        return _Sample({}, {})
    values: dict[str, NDArray[Any]] = {}
    for node in parts.nodes:
        if node.op_type == "Shape":
            shape = shapes.get(node.input[0], (None,))[attribute(node, "start", 0) : attribute(node, "end")]
            if None not in shape:
                values[node.output[0]] = np.array(shape, np.int64)
            continue
        feeds = {name: values.get(name, parts.constant(name)) for name in node.input}
        if node.op_type in _ARITHMETIC and all(feed is not None for feed in feeds.values()):
            with contextlib.suppress(Exception):  # the library raises whatever Python does: what fails is not known
                values[node.output[0]] = np.asarray(*ReferenceEvaluator(_alone(node, parts)).run(None, feeds))
    return _Sample(shapes, values)


def _alone(node: onnx.NodeProto, parts: GraphParts) -> onnx.ModelProto:
    """Return a model of one node."""
    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in names]
        for names in (node.input, node.output)
    )
    graph = onnx.helper.make_graph([node], "sizes", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=list(parts.opset_imports), ir_version=parts.ir_version)


def _constant(node: onnx.NodeProto, samples: Sequence[_Sample]) -> NDArray[Any] | None:
    """Return what a node may read in place of its sizes; None where it is not the same always, or cannot be told."""
    found: list[tuple[Sizes, Sizes]] = []
    for sample in samples:
        lengths = sample.shapes.get(node.input[0], (None,))
        sizes = sample.values.get(node.input[_SIZES_INPUT if node.op_type == "Resize" else 1])
        if sizes is None or None in lengths:
            return None
        found.append((tuple(length or 0 for length in lengths), tuple(map(int, sizes.ravel()))))
    return _factors(found) if node.op_type == "Resize" else _target(found)


def _factors(found: Sequence[tuple[Sizes, Sizes]]) -> NDArray[np.float32] | None:
    """Return what every length is multiplied by, the same whole numbers always; else None."""
    factors = set()
    for lengths, sizes in found:
        if len(sizes) != len(lengths) or any(
            size < length or size % length for length, size in zip(lengths, sizes, strict=True)
        ):
            return None
        factors.add(tuple(size // length for length, size in zip(lengths, sizes, strict=True)))
    return np.array(factors.pop(), np.float32) if len(factors) == 1 else None


def _target(found: Sequence[tuple[Sizes, Sizes]]) -> NDArray[np.int64] | None:
    """Return each length that is the same always, and `_KEPT` for what is kept; None where one is neither."""
    if len({len(sizes) for _, sizes in found}) > 1:
        return None
    target = []
    for axis, sizes in enumerate(zip(*(sizes for _, sizes in found), strict=True)):
        if len(set(sizes)) == 1:
            target.append(sizes[0])
        elif all(axis < len(lengths) and lengths[axis] == sizes[at] for at, (lengths, _) in enumerate(found)):
            target.append(_KEPT)
        else:
            return None
    return np.array(target, np.int64) if target else None


def _without_unread(parts: GraphParts) -> GraphParts:
    """Drop nodes whose values nobody reads, and what only they read."""
    read = {end.name for end in parts.outputs}
    kept = []
    for node in reversed(parts.nodes):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read.update(node.input)
    return parts.replace(nodes=kept[::-1])


PRELU_IS_SLOW_FROM = (1, 25)
"""First ONNX Runtime whose CPU provider is slower on PRelu than on the two branches we write instead.

Measured: 1.31.1 is, 1.24.1 is not.
"""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One rewrite. `version` goes up with every change of what `apply` writes: prepared files are cached by it."""

    name: str
    version: int
    apply: Callable[[GraphParts], GraphParts]


def split_prelu(parts: GraphParts) -> GraphParts:
    """Write PRelu as `Relu(x) - slope * Relu(-x)`, both factors as depthwise 1x1 convolutions.

    Exact to the bit: one of the two branches is zero, and the sign of a product does not round. ONNX Runtime has no
    blocked (NCHWc) kernel for PRelu, Neg or a product by channel, and turns the layout back and forth around each;
    convolutions stay in it and take the Relu and the sum along.

    PRelus on anything but maps with one slope a channel stay as they are.
    """
    nodes: list[onnx.NodeProto] = []
    new_weights = {}
    for node in parts.nodes:
        slopes = parts.constant(node.input[1]) if node.op_type == "PRelu" else None
        # (C, 1, 1) can only broadcast over (N, C, H, W) channel by channel; C = 1 may be one slope for all. PyTorch's
        # exporter of today writes (1, C, 1, 1).
        if slopes is None or slopes.ndim not in {3, 4} or slopes.size in {0, 1} or slopes.shape[-3] != slopes.size:
            nodes.append(node)
            continue
        source, target = node.input[0], node.output[0]
        channels = slopes.size
        minus, negated = f"{target}/minus", f"{target}/slopes"
        new_weights[minus] = np.full((channels, 1, 1, 1), -1, slopes.dtype)
        new_weights[negated] = -slopes.reshape(-1, 1, 1, 1)
        nodes += [
            make_node("Relu", [source], [f"{target}/positive"]),
            make_node("Conv", [source, minus], [f"{target}/mirrored"], group=channels, kernel_shape=[1, 1]),
            make_node("Relu", [f"{target}/mirrored"], [f"{target}/negative"]),
            make_node(
                "Conv", [f"{target}/negative", negated], [f"{target}/sloped"], group=channels, kernel_shape=[1, 1]
            ),
            make_node("Add", [f"{target}/positive", f"{target}/sloped"], [target]),
        ]
    return parts.replace(nodes=nodes, new_weights=new_weights)


FIX_SIZES = Rewrite("fix_sizes", 1, fix_sizes)

EVERYWHERE = (FIX_SIZES,)
"""For whatever runs a graph: without them some are not captured as CUDA graphs, and nowhere are they slower."""

MERGE_SIBLINGS = Rewrite("merge_siblings", 1, merge_siblings)
WIDEN_GROUPS = Rewrite("widen_groups", 1, widen_groups)
SPLIT_PRELU = Rewrite("split_prelu", 2, split_prelu)


def choose_rewrites(provider: str, runtime_version: tuple[int, ...]) -> tuple[Rewrite, ...]:
    """Return the rewrites that win on an execution provider.

    Args:
        provider: ONNX Runtime's name of it, such as `CPUExecutionProvider`, or `OpenVINO` for that runtime itself.
        runtime_version: Of ONNX Runtime, such as (1, 31, 1).
    """
    if provider == "OpenVINO":
        return (*EVERYWHERE, MERGE_SIBLINGS, WIDEN_GROUPS)
    if provider == "CUDAExecutionProvider":
        return (*EVERYWHERE, MERGE_SIBLINGS)
    if provider != "CPUExecutionProvider":
        return EVERYWHERE
    if runtime_version < PRELU_IS_SLOW_FROM:
        return (*EVERYWHERE, MERGE_SIBLINGS)
    # Groups gain where the layers around them stay in blocks too: only where PRelu was split.
    return (*EVERYWHERE, MERGE_SIBLINGS, WIDEN_GROUPS, SPLIT_PRELU)
