"""Flattening to constant lengths, in place of a batch that is asked for as the graph runs.

PyTorch writes `x.view(x.size(0), -1)` as Shape, Gather, Unsqueeze and Concat, which make the target of a Reshape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.models.graphs.parts import GraphParts, attribute
from app.models.graphs.sizes import SizesFound, find_sizes, is_computed, with_constant, without_unread

_KEEP = 0
"""What Reshape takes for the length that its input has at the same place."""


def fix_flattening(parts: GraphParts) -> GraphParts:
    """Write a Reshape to lengths computed from shapes as one to constants, 0 where a length is kept as it is.

    Exact to the bit: the lengths are the same. Nodes that only computed them are dropped. A length that is neither the
    same always nor kept leaves its Reshape as it is.

    Args:
        parts: A graph whose one input is (N, C, H, W), annotated with the lengths that are fixed.
    """
    if parts.has_subgraphs:
        return parts
    changed = parts
    for node in parts.nodes:
        is_candidate = (
            node.op_type == "Reshape" and is_computed(node.input[1], parts) and node.input[0] != node.input[1]
        )
        if not is_candidate or attribute(node, "allowzero", 0):
            continue
        found = find_sizes(changed, node.input[1], node.input[0])
        if found and (target := _constants(found)):
            name = f"{node.output[0]}/lengths"
            changed = with_constant(changed, node, 1, name, np.array(target, np.int64))
    return parts if changed is parts else without_unread(changed)


def _constants(found: Sequence[SizesFound]) -> tuple[int, ...] | None:
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
    return tuple(target)
