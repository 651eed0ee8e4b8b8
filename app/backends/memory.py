"""How much memory this process may use before the kernel ends it."""

from __future__ import annotations

import math
from pathlib import Path

from app.backends.cgroup import folders_upwards, group_path, read_words


def memory_limit_bytes(root: Path = Path("/")) -> float:
    """Return the least of the machine's memory and the limits of this process's control groups; infinite: not known.

    Args:
        root: Where `/proc` and `/sys` are; another folder in tests.
    """
    unified = folders_upwards(root / "sys/fs/cgroup", group_path(root, ""))
    first = folders_upwards(root / "sys/fs/cgroup/memory", group_path(root, "memory"))
    limits = [read_words(folder / "memory.max") for folder in unified]
    limits += [read_words(folder / "memory.limit_in_bytes") for folder in first]
    return min(_machine_bytes(root), *(_number(*words) for words in limits))


def _machine_bytes(root: Path) -> float:
    """Read `MemTotal`, which is in kibibytes."""
    words = read_words(root / "proc/meminfo")
    if "MemTotal:" not in words:
        return math.inf
    return 1024 * _number(words[words.index("MemTotal:") + 1])


def _number(*words: str) -> float:
    """Return the number a file holds; infinite for `max` and anything else."""
    return int(words[0]) if len(words) == 1 and words[0].isdecimal() else math.inf
