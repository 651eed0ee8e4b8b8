"""Upsampling by constant factors, in place of sizes that are computed as the graph runs.

SCRFD's exports write `interpolate(small, size of large)` as Shape, Gather, Slice and Concat, which make the sizes of a
Resize.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from jetface.models.graphs.parts import GraphParts, attribute
from jetface.models.graphs.sizes import SizesFound, fix_sizes

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
    # The region, which no mode left here reads, stays: before operator set 13 it must be there.
    return fix_sizes(parts, _sizes_input, _factors, kept_inputs=_SIZES_INPUT - 1, suffix="factors")


def _sizes_input(node: onnx.NodeProto) -> int | None:
    """Return the sizes of a Resize that means by them what it would mean by factors."""
    means_factors = (
        node.op_type == "Resize"
        and len(node.input) > _SIZES_INPUT
        # Factors come from a region, from one side for both, or are of some axes only.
        and attribute(node, "coordinate_transformation_mode", b"half_pixel") != b"tf_crop_and_resize"
        and attribute(node, "keep_aspect_ratio_policy", b"stretch") == b"stretch"
        and attribute(node, "axes") is None
    )
    return _SIZES_INPUT if means_factors else None


def _factors(found: Sequence[SizesFound]) -> NDArray[np.float32] | None:
    """Return what every length is multiplied by, the same whole numbers always; else None."""
    factors = {_whole_factors(at) for at in found}
    one = factors.pop() if len(factors) == 1 else None
    return np.array(one, np.float32) if one else None


def _whole_factors(found: SizesFound) -> tuple[int, ...] | None:
    """Return by what each length is multiplied; None where one is not by a whole number of at least 1."""
    if len(found.sizes) != len(found.lengths):
        return None
    pairs = list(zip(found.sizes, found.lengths, strict=True))
    if any(size < length or size % length for size, length in pairs):
        return None
    return tuple(size // length for size, length in pairs)
