"""Small files of `/proc` and `/sys`: read whole, and never an error where one is not there."""

from __future__ import annotations

from pathlib import Path

_MOST_BYTES = 64 * 1024
"""What is longer is no file of this kind: a device, or a pipe that never ends."""


def read_text(path: Path) -> str | None:
    """Return a small file's text without white space and zero bytes around it; None when it cannot be read.

    Files of the device tree end in a zero byte; a sensor whose device sleeps answers with an error of its driver's.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
    except OSError:
        return None
    return content.decode("utf-8", errors="replace").strip(" \t\r\n\0")


def read_number(path: Path) -> int | None:
    """Return the whole number a file holds; None when it holds none or cannot be read."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return None
