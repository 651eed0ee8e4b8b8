"""Files that appear whole, under their final name, or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PART_SUFFIX = ".part"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing and reading beside `path`; it takes that name when the block ends without an error.

    The folder must exist. A process that is killed leaves a file for `remove_parts`.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART_SUFFIX}")
    try:
        with part.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing and reading that is gone after the block; named so that `remove_parts(path)` finds it."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART_SUFFIX}")
    try:
        with part.open("x+b") as file:
            yield file
    finally:
        part.unlink(missing_ok=True)


def remove_parts(path: Path) -> None:
    """Remove what killed writers of `path` left. The caller must hold the lock that writers of `path` take."""
    for part in path.parent.glob(f".{path.name}.*{PART_SUFFIX}"):
        part.unlink(missing_ok=True)
