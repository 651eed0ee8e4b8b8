"""A graph of FP32 that answers as one of FP16 would: every value that is a half there is rounded to a half here.

ONNX Runtime has hardly a kernel in half for the CPU. It computes a graph of FP16 in FP32 instead and drops the casts:
what overflows on a GPU would pass for sound. So the rounding is written into the graph, in arithmetic that no optimizer
simplifies.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx.helper import make_node

from jetface.models.graphs.parts import GraphParts, attribute

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16

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
