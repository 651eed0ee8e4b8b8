"""The machine's memory; on a Jetson the GPU's too."""

from __future__ import annotations

from pathlib import Path

from app.device.sysfs import read_text


def total_memory_bytes(root: Path = Path("/")) -> int | None:
    """Return the machine's memory; None when the system does not say.

    Args:
        root: Where `/proc` is; another folder in tests.
    """
    return _field(root, "MemTotal")


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """Return what can be had without swapping, page cache that can go included; None when the system does not say."""
    return _field(root, "MemAvailable")


def _field(root: Path, name: str) -> int | None:
    """Read a field of `meminfo`, which is in kibibytes."""
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        field, _, value = line.partition(":")
        words = value.split()
        if field == name and words and words[0].isdecimal():
            return 1024 * int(words[0])
    return None
