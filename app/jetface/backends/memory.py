"""How much memory this process may use before the kernel ends it, and how much of that is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from jetface.backends.cgroup import folders_upwards, group_path, read_words
from jetface.device.meminfo import available_memory_bytes, total_memory_bytes
from jetface.errors import MemoryPressureError

_log = structlog.get_logger(__name__)

_RETRY_AFTER_S = 30
"""Memory comes back when other work ends, not within a moment."""


def memory_limit_bytes(root: Path = Path("/")) -> float:
    """Return the least of the machine's memory and the limits of this process's control groups; infinite: not known.

    Args:
        root: Where `/proc` and `/sys` are; another folder in tests.
    """
    machine = total_memory_bytes(root)
    return min(math.inf if machine is None else machine, *(group.limit for group in _groups(root)))


def free_memory_bytes(root: Path = Path("/")) -> float:
    """Return what this process can still take before the kernel ends it; infinite: not known.

    The least of what the machine has available and what the limits of this process's control groups leave. Page cache
    counts as free in both: the kernel gives it up first.

    Args:
        root: Where `/proc` and `/sys` are; another folder in tests.
    """
    machine = available_memory_bytes(root)
    return min(math.inf if machine is None else machine, *(group.headroom() for group in _groups(root)))


@dataclass(frozen=True, slots=True)
class MemoryGuard:
    """Refuses work that would leave too little memory: an error for its caller rather than a kill for everybody."""

    floor_bytes: int
    """What must stay free; 0 refuses nothing."""
    read_free_bytes: Callable[[], float] = free_memory_bytes
    on_refusal: Callable[[str], None] = lambda work: None  # noqa: ARG005 - called with the kind of work

    def require(self, need_bytes: int, *, work: str, subject: str) -> None:
        """Pass when `need_bytes` more can be had and the floor still stays free.

        Args:
            need_bytes: Estimate of what the work takes at its most.
            work: What is to be done, for metrics: `load` or `build`.
            subject: What it is done to, for people: a model's name.

        Raises:
            MemoryPressureError: They cannot.
        """
        if self.floor_bytes == 0:
            return
        free_bytes = self.read_free_bytes()
        if free_bytes - need_bytes >= self.floor_bytes:
            return
        self.on_refusal(work)
        _log.error(
            "too little free memory", work=work, subject=subject, free_bytes=int(free_bytes), need_bytes=need_bytes,
            floor_bytes=self.floor_bytes,
        )  # fmt: skip
        raise MemoryPressureError(
            f"There is too little free memory to {work} {subject}: it takes about {_mebibytes(need_bytes)}, "
            f"{_mebibytes(free_bytes)} are free, and MIN_FREE_MEMORY_BYTES keeps {_mebibytes(self.floor_bytes)} of "
            "them.",
            retry_after_s=_RETRY_AFTER_S,
        )


@dataclass(frozen=True, slots=True)
class _Group:
    """One control group's folder, and what its files are called in its hierarchy."""

    folder: Path
    limit_file: str
    usage_file: str

    @property
    def limit(self) -> float:
        """Bytes; infinite when there is none."""
        return _number(*read_words(self.folder / self.limit_file))

    def headroom(self) -> float:
        """Bytes left; infinite when there is no limit, or the group does not say what it uses."""
        limit, usage = self.limit, _number(*read_words(self.folder / self.usage_file))
        if math.inf in (limit, usage):
            return math.inf
        words = read_words(self.folder / "memory.stat")
        fields = dict(zip(words[::2], words[1::2], strict=False))
        # The first hierarchy counts what is in groups below this one in fields of their own.
        prefix = "total_" if "total_inactive_file" in fields else ""
        # Charged to the group, and taken back by the kernel on demand.
        cache = sum(_count(fields.get(f"{prefix}{kind}_file", "")) for kind in ("active", "inactive"))
        return max(0.0, limit - max(0.0, usage - cache))


def _groups(root: Path) -> list[_Group]:
    unified = folders_upwards(root / "sys/fs/cgroup", group_path(root, ""))
    first = folders_upwards(root / "sys/fs/cgroup/memory", group_path(root, "memory"))
    return [
        *(_Group(folder, "memory.max", "memory.current") for folder in unified),
        *(_Group(folder, "memory.limit_in_bytes", "memory.usage_in_bytes") for folder in first),
    ]


def _number(*words: str) -> float:
    """Return the number a file holds; infinite for `max` and anything else."""
    return int(words[0]) if len(words) == 1 and words[0].isdecimal() else math.inf


def _count(word: str) -> int:
    return int(word) if word.isdecimal() else 0


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"
