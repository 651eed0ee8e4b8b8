"""Which models serve when none is named: the best pair whose weights are at hand, else the smallest to download."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from app.specs import ModelSpec, Task

PREFERENCE: Mapping[Task, Sequence[str]] = MappingProxyType(
    {
        "detection": ("scrfd_10g_bnkps", "det_10g", "det_500m", "scrfd_2.5g_bnkps", "det_2.5g"),
        "recognition": ("glintr100", "w600k_r50", "w600k_mbf", "w600k_mbf_dequantized", "mobilefacenet128"),
    }
)
"""Best first, except that det_500m stands before the 2.5g detectors: on a CPU it answers four times as fast and finds
the same faces of the golden set."""

LIGHTEST: Mapping[Task, str] = MappingProxyType({"detection": "det_500m", "recognition": "w600k_mbf"})
"""What is downloaded when nothing is at hand: 16 MB together, InsightFace's `buffalo_sc`."""


def choose_model(task: Task, registry: Mapping[str, ModelSpec], is_at_hand: Callable[[ModelSpec], bool]) -> str:
    """Name the model that serves `task` when the operator names none.

    Args:
        task: What the model is to do.
        registry: All entries.
        is_at_hand: Whether an entry's weights can be had without a download.

    Returns:
        A registry name: of the weights at hand the most preferred, else `LIGHTEST`.
    """
    for name in PREFERENCE[task]:
        if name in registry and is_at_hand(registry[name]):
            return name
    return LIGHTEST[task]
