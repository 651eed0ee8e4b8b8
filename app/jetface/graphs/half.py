"""A graph cast to half precision (FP16), and one that rounds as the cast one would.

The cast is onnxconverter-common's. Around it: weights are rounded here first, so that it has nothing to clip or to warn
of; what it cannot type is kept away from it; inputs and outputs stay FP32; and values that it takes to half and back
between two operators of FP32 are not taken there.

ONNX Runtime has hardly a kernel in half for the CPU. It computes a graph of FP16 in FP32 instead and drops the casts:
what overflows on a GPU would pass for sound. So the rounding is written into the graph, in arithmetic that no optimizer
simplifies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.helper import make_node

from jetface.graphs.parts import GraphError, GraphParts, attribute, take_apart
from jetface.registry import ModelSpec

Precision = Literal["fp32", "fp16"]
"""What a prepared graph computes in."""

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16

_LARGEST = float(np.finfo(np.float16).max)

_ALWAYS_FULL = frozenset(
    {"Cast", "CumSum", "Max", "Min", "NonMaxSuppression", "Range", "Resize", "RoiAlign", "TopK", "Upsample"}
)
"""Operators that have inputs of FP32 in every version (Resize its factors), or no kernel in half where we run."""

_QUANTIZED_OPSET = 19
"""Of graphs with quantized operators: before it their scales are FP32, and so is what they answer."""

_SUMS = frozenset(
    {"Add", "AveragePool", "BatchNormalization", "Div", "Exp", "GlobalAveragePool", "InstanceNormalization", "Mul"}
    | {"Pow", "ReduceL2", "ReduceMean", "ReduceSum", "Sigmoid", "Softmax", "Sqrt", "Sub", "Sum"}
)
"""Where rounding adds up: a convolution sums in FP32 whatever its precision, but a residual stream is rounded by each
of its additions, and a normalization multiplies what was lost before it."""


@dataclass(frozen=True, slots=True)
class HalfPolicy:
    """Which nodes are cast."""

    name: str
    """What an operator sees."""
    full_operators: frozenset[str]
    """Operators that are kept in FP32."""


ALL_HALF = HalfPolicy("fp16", _ALWAYS_FULL)
FULL_SUMS = HalfPolicy("fp16, sums in fp32", _ALWAYS_FULL | _SUMS)

POLICIES = (ALL_HALF, FULL_SUMS)
"""In the order they are tried: the first that stays within the limits is taken, so no more stays in FP32 than must."""


def policy_of(spec: ModelSpec) -> HalfPolicy:
    """Return how a model is cast: as its entry says, which knows what it takes to stay within the limits."""
    return FULL_SUMS if spec.fp32_sums else ALL_HALF


def to_half(parts: GraphParts, policy: HalfPolicy = ALL_HALF) -> GraphParts:
    """Cast a graph to FP16; its inputs and outputs stay FP32, and what is quantized in it stays INT8.

    Weights are rounded to the nearest half; what is larger than any becomes the largest (65504).

    Args:
        parts: A graph with float32 inputs and outputs. One whose weights are stored in half is widened first; one that
            computes in half already comes back as it is.
        policy: Which operators stay in FP32.

    Raises:
        GraphError: It cannot be cast.
    """
    parts = widen(parts)
    if computes_in_half(parts):
        return parts
    if parts.opset < _QUANTIZED_OPSET and any(node.op_type == "QuantizeLinear" for node in parts.nodes):
        parts = take_apart(
            onnx.version_converter.convert_version(parts.assemble(), _QUANTIZED_OPSET).SerializeToString()
        )
    named, full_names = [], []
    for index, node in enumerate(parts.nodes):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        # The library tells nodes apart by name, and names what it adds by them.
        copy.name = f"node{index}"
        named.append(copy)
        if node.op_type in policy.full_operators:
            full_names.append(copy.name)
    parts = _rounded(parts.replace(nodes=named), frozenset(full_names))
    return _without_detours(_with_full_ends(_cast(parts, full_names), parts))


def widen(parts: GraphParts) -> GraphParts:
    """Return the graph with weights of FP32 where it casts stored halves to FP32 itself, as small files do."""
    nodes, widened = [], {}
    for node in parts.nodes:
        stored = parts.constant(node.input[0]) if node.op_type == "Cast" else None
        if stored is None or stored.dtype != np.float16 or attribute(node, "to") != _FLOAT:
            nodes.append(node)
        else:
            widened[node.output[0]] = stored.astype(np.float32)
    return parts.replace(nodes=nodes, new_weights=widened) if widened else parts


def computes_in_half(parts: GraphParts) -> bool:
    """Whether a graph, widened, has halves left: somebody has cast it before."""
    return any(weight.data_type == _HALF for weight in parts.weights.values()) or any(
        node.op_type == "Cast" and attribute(node, "to") == _HALF for node in parts.nodes
    )


def _rounded(parts: GraphParts, full_names: frozenset[str]) -> GraphParts:
    """Round what nodes in half read; a weight that both kinds read becomes two."""
    read_in_full = {name for node in parts.nodes if node.name in full_names for name in node.input}
    nodes, weights = [], dict[str, NDArray[Any]]()
    for node in parts.nodes:
        if node.name not in full_names:
            for index, name in enumerate(node.input):
                weight = parts.weights.get(name)
                if weight is None or weight.data_type != _FLOAT:
                    continue
                own = f"{name}/half" if name in read_in_full else name
                node.input[index] = own
                if own not in weights:
                    weights[own] = _nearest_half(onnx.numpy_helper.to_array(weight))
        nodes.append(node)
    return parts.replace(nodes=nodes, new_weights=weights)


def _nearest_half(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float16).astype(np.float32)


def _cast(parts: GraphParts, full_names: list[str]) -> GraphParts:
    from onnxconverter_common import float16  # noqa: PLC0415 - 40 ms that only those pay who cast

    try:
        cast = float16.convert_float_to_float16(
            parts.assemble(),
            # Rounded above: nothing is smaller than the smallest half, or larger than the largest.
            min_positive_val=float(np.finfo(np.float16).smallest_subnormal) / 2,
            max_finite_val=2 * _LARGEST,
            keep_io_types=False,
            op_block_list=[],
            node_block_list=full_names,
            check_fp16_ready=False,
        )
    # The library checks little: a graph it does not understand ends in whatever Python raises there.
    except Exception as cause:
        raise GraphError("it cannot be cast to FP16") from cause
    return take_apart(cast.SerializeToString())


def _with_full_ends(half: GraphParts, full: GraphParts) -> GraphParts:
    """Give a graph whose ends are halves the FP32 ends it had."""
    inner = {end.name: f"{end.name}/half" for end in (*full.inputs, *full.outputs)}
    casts_in = [make_node("Cast", [end.name], [inner[end.name]], to=_HALF) for end in full.inputs]
    casts_out = [make_node("Cast", [inner[end.name]], [end.name], to=_FLOAT) for end in full.outputs]
    nodes = [_renamed(node, inner) for node in half.nodes]
    return half.replace(nodes=[*casts_in, *nodes, *casts_out], inputs=full.inputs, outputs=full.outputs)


def _without_detours(parts: GraphParts) -> GraphParts:
    """Let readers in FP32 have what another node in FP32 has made, not what is left of it after a cast to half."""
    sources = {node.output[0]: node.input[0] for node in parts.nodes if _is_cast(node, _HALF)}
    direct: dict[str, str] = {}
    nodes = []
    ends = {end.name for end in parts.outputs}
    for node in parts.nodes:
        source = sources.get(node.input[0]) if _is_cast(node, _FLOAT) else None
        if source is not None and node.output[0] not in ends:
            direct[node.output[0]] = source
        elif source is not None:
            nodes.append(make_node("Identity", [source], list(node.output)))
        else:
            nodes.append(_renamed(node, direct))
    read = {name for node in nodes for name in node.input} | ends
    kept = [node for node in nodes if not _is_cast(node, _HALF) or node.output[0] in read]
    return parts.replace(nodes=kept)


def _is_cast(node: onnx.NodeProto, to: int) -> bool:
    return node.op_type == "Cast" and attribute(node, "to") == to


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy


_EXACT = frozenset(
    {"Abs", "Clip", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Identity", "MaxPool"}
    | {"Neg", "Pad", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Operators that answer with values they were given, or their negatives: halves stay halves."""

_CONSTANTS = {
    # Source: Dekker 1971 (Veltkamp's splitting). `8193 x - (8193 x - x)` keeps the 11 leading bits of x, as a half
    # does.
    "half/8193": 8193.0,
    # Near 0.75 the numbers of float32 are 2**-24 apart, as the smallest halves are: adding it rounds what is below
    # 2**-14 to them, and leaves larger halves as they are.
    "half/0.75": 0.75,
    # 65536 becomes infinite, as it does in half; 65504, the largest half, does not.
    "half/2**112": 2.0**112,
    "half/2**-112": 2.0**-112,
}


def round_as_half(parts: GraphParts) -> GraphParts:
    """Return a graph of FP32 that rounds wherever a graph that computes in half would.

    Sums within an operator are FP32 on both sides, as they are on the GPUs we know. Below 2**-14, where halves are
    spaced evenly, a value may become the second nearest of them.

    Args:
        parts: What `to_half` returns.
    """
    types = parts.infer_types()
    widened = {
        name: onnx.numpy_helper.to_array(weight).astype(np.float32)
        for name, weight in parts.weights.items()
        if weight.data_type == _HALF
    }
    constants = {name: np.array(value, np.float32) for name, value in _CONSTANTS.items()}
    nodes: list[onnx.NodeProto] = []
    for node in parts.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        halves = [name for name in node.output if types.get(name) == _HALF]
        if node.op_type == "Cast" and (halves or attribute(node, "to") == _FLOAT):
            source_type = types.get(node.input[0], _FLOAT)
            if source_type in {_FLOAT, _HALF}:
                copy = make_node("Identity", list(node.input), list(node.output))
        if node.op_type in _EXACT:
            nodes.append(copy)
            continue
        for index, name in enumerate(copy.output):
            if name in halves:
                copy.output[index] = f"{name}/unrounded"
        nodes.append(copy)
        for name in halves:
            nodes += _rounding(f"{name}/unrounded", name)
    return parts.replace(nodes=nodes, new_weights={**widened, **constants})


def _rounding(source: str, target: str) -> list[onnx.NodeProto]:
    """Nodes that round FP32 to the nearest half."""
    return [
        make_node("Mul", [source, "half/8193"], [f"{target}/far"]),
        make_node("Sub", [f"{target}/far", source], [f"{target}/rest"]),
        make_node("Sub", [f"{target}/far", f"{target}/rest"], [f"{target}/eleven_bits"]),
        make_node("Add", [f"{target}/eleven_bits", "half/0.75"], [f"{target}/shifted"]),
        make_node("Sub", [f"{target}/shifted", "half/0.75"], [f"{target}/back"]),
        make_node("Mul", [f"{target}/back", "half/2**112"], [f"{target}/large"]),
        make_node("Mul", [f"{target}/large", "half/2**-112"], [target]),
    ]
