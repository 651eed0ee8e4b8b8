"""How many cores this process may use: what a container's quota and the scheduler leave of the machine's."""

from __future__ import annotations

import math
import os
from pathlib import Path

from jetface.backends.cgroup import folders_upwards, group_path, read_words


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores to use, at least 1.

    The least of the machine's cores, the cores this process may be scheduled on, and the CPU quota of its control
    group, rounded up: half a core of quota still needs a thread. ONNX Runtime and `os.cpu_count` see the machine only,
    and a container limited to 2 of 64 cores would get 64 threads that throttle each other.

    Args:
        root: Where `/proc` and `/sys` are; another folder in tests.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else math.inf
    quota = min(_quota_v2(root), _quota_v1(root))
    return max(1, math.ceil(min(os.cpu_count() or 1, affinity, quota)))


def _quota_v2(root: Path) -> float:
    """Least `cpu.max` from this process's group up to the root of the unified hierarchy; infinite when none is set."""
    mount = root / "sys/fs/cgroup"
    return min(
        (_ratio(*read_words(folder / "cpu.max")) for folder in folders_upwards(mount, group_path(root, ""))),
        default=math.inf,
    )


def _quota_v1(root: Path) -> float:
    """Least `cfs_quota_us / cfs_period_us` from this process's group up; infinite when none is set."""
    group = group_path(root, "cpu")
    folders = [
        folder
        for controllers in ("cpu", "cpu,cpuacct")
        for folder in folders_upwards(root / "sys/fs/cgroup" / controllers, group)
    ]
    return min(
        _ratio(*read_words(folder / "cpu.cfs_quota_us"), *read_words(folder / "cpu.cfs_period_us"))
        for folder in folders
    )


def _ratio(*words: str) -> float:
    """Cores a `quota period` pair allows; infinite for `max`, -1 and anything that is no such pair."""
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf
