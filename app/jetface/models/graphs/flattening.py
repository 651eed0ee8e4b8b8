"""Flattening to constant lengths, in place of a batch that is asked for as the graph runs.

PyTorch writes `x.view(x.size(0), -1)` as Shape, Gather, Unsqueeze and Concat, which make the target of a Reshape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from jetface.models.graphs.parts import GraphParts, attribute
from jetface.models.graphs.sizes import SizesFound, fix_sizes

_KEEP = 0
"""What Reshape takes for the length that its input has at the same place."""


def fix_flattening(parts: GraphParts) -> GraphParts:
    """Write a Reshape to lengths computed from shapes as one to constants, 0 where a length is kept as it is.

    Exact to the bit: the lengths are the same. Nodes that only computed them are dropped. A length that is neither the
    same always nor kept leaves its Reshape as it is.

    Args:
        parts: A graph whose one input is (N, C, H, W), annotated with the lengths that are fixed.
    """
    return fix_sizes(parts, _lengths_input, _constants, kept_inputs=1, suffix="lengths")


def _lengths_input(node: onnx.NodeProto) -> int | None:
    """Return the lengths of a Reshape that takes 0 for a length that is kept."""
    takes_zero = node.op_type == "Reshape" and node.input[0] != node.input[1] and not attribute(node, "allowzero", 0)
    return 1 if takes_zero else None


def _constants(found: Sequence[SizesFound]) -> NDArray[np.int64] | None:
    """Return each length that is the same always, and `_KEEP` for what is kept; None where one is neither."""
    if len({len(at.sizes) for at in found}) > 1:
        return None
    target = []
    for axis, sizes in enumerate(zip(*(at.sizes for at in found), strict=True)):
        if len(set(sizes)) == 1:
            target.append(sizes[0])
        elif all(axis < len(at.lengths) and at.lengths[axis] == at.sizes[axis] for at in found):
            target.append(_KEEP)
        else:
            return None
    return np.array(target, np.int64) if target else None
