"""Upsampling by constant factors, in place of sizes that are computed as the graph runs.

SCRFD's exports write `interpolate(small, size of large)` as Shape, Gather, Slice and Concat, which make the sizes of a
Resize.
"""

from __future__ import annotations

import numpy as np
import onnx

from app.models.graphs.parts import GraphParts, attribute
from app.models.graphs.sizes import SizesFound, find_sizes, is_computed, with_constant, without_unread

_SIZES_INPUT = 3
"""Which input of Resize its sizes are, from operator set 11 on."""


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
        if not _has_computed_sizes(node, parts):
            continue
        found = find_sizes(changed, node.input[_SIZES_INPUT], node.input[0]) or ()
        factors = {_whole_factors(at) for at in found}
        if len(factors) == 1 and (one := factors.pop()):
            # The region, which no mode left here reads, stays: before operator set 13 it must be there.
            name = f"{node.output[0]}/factors"
            changed = with_constant(changed, node, _SIZES_INPUT - 1, name, np.array(one, np.float32))
    return parts if changed is parts else without_unread(changed)


def _has_computed_sizes(node: onnx.NodeProto, parts: GraphParts) -> bool:
    """Whether a Resize takes sizes that another node makes, and means by them what it would mean by factors."""
    return (
        node.op_type == "Resize"
        and len(node.input) > _SIZES_INPUT
        and is_computed(node.input[_SIZES_INPUT], parts)
        # Factors come from a region, from one side for both, or are of some axes only.
        and attribute(node, "coordinate_transformation_mode", b"half_pixel") != b"tf_crop_and_resize"
        and attribute(node, "keep_aspect_ratio_policy", b"stretch") == b"stretch"
        and attribute(node, "axes") is None
    )


def _whole_factors(found: SizesFound) -> tuple[int, ...] | None:
    """Return by what each length is multiplied; None where one is not by a whole number of at least 1."""
    if len(found.sizes) != len(found.lengths):
        return None
    pairs = list(zip(found.sizes, found.lengths, strict=True))
    if any(size < length or size % length for size, length in pairs):
        return None
    return tuple(size // length for size, length in pairs)
