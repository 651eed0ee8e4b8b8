"""The machine's memory; on a Jetson the GPU's too."""

from __future__ import annotations

import ctypes
from pathlib import Path

from jetface.device.sysfs import read_text


def total_memory_bytes(root: Path = Path("/")) -> int | None:
    """Return the machine's memory; None when the system does not say.

    Args:
        root: Where `/proc` is; another folder in tests.
    """
    return _field(root, "MemTotal")


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """Return what can be had without swapping, page cache that can go included; None when the system does not say."""
    return _field(root, "MemAvailable")


def trim_memory() -> bool:
    """Give memory that was freed back to the system: whole pages, of every arena of malloc.

    glibc keeps arenas for several threads and returns only what lies at the end of each, so a burst of large pictures
    or crowds leaves a step behind in the resident memory, to which later bursts add. Threads that allocate meanwhile
    wait for their arena.

    Returns:
        Whether the C library can do it: glibc's can, musl's and macOS's cannot.

    Source: malloc_trim(3), glibc 2.8 and later.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True


def _field(root: Path, name: str) -> int | None:
    """Read a field of `meminfo`, which is in kibibytes."""
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        field, _, value = line.partition(":")
        words = value.split()
        if field == name and words and words[0].isdecimal():
            return 1024 * int(words[0])
    return None
