"""Convolutions in the form ONNX Runtime's CPU provider runs fastest: blocks of 16 channels, none of them idle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.helper import make_attribute, make_node

from jetface.models.graphs.parts import GraphParts, attribute

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
