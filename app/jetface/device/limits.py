"""What this process may use: cores and memory, as control groups and the scheduler leave them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from jetface.device.machine import available_memory_bytes, total_memory_bytes
from jetface.errors import MemoryPressureError


def group_path(root: Path, controller: str) -> str:
    """Return the path of this process's control group, `/` when it cannot be told.

    Args:
        root: Where `/proc` is.
        controller: One of the first hierarchies' (`cpu`, `memory`); empty: the unified hierarchy.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return "/"
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "", "")[:3]
        if controller in controllers.split(","):
            return path
    return "/"


def folders_upwards(mount: Path, group: str) -> list[Path]:
    """Return the folders of a group and of the groups it is in, the mount point last.

    Inside a container the group's own path is that of the host and often is not there; the mount point then is the
    container's group.
    """
    parts = [part for part in group.split("/") if part not in ("", "..")]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def read_words(path: Path) -> tuple[str, ...]:
    """Return the words of a small file; none when it cannot be read."""
    try:
        return tuple(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        return ()


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
