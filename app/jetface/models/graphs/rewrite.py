"""Rewrites that make a graph faster where it runs and leave its answers alone, up to rounding. Figures: ADR 0005."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx.helper import make_node

from jetface.models.graphs.convolutions import merge_siblings, widen_groups
from jetface.models.graphs.flattening import fix_flattening
from jetface.models.graphs.parts import GraphParts
from jetface.models.graphs.upsampling import fix_upsampling

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


FIX_UPSAMPLING = Rewrite("fix_upsampling", 1, fix_upsampling)
FIX_FLATTENING = Rewrite("fix_flattening", 1, fix_flattening)

EVERYWHERE = (FIX_UPSAMPLING, FIX_FLATTENING)
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
