"""Files that appear whole, under their final name, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PART_SUFFIX = ".part"

_LEAST_AGE_S = 60.0
"""A younger file is not swept: its writer may not have locked it yet."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing and reading beside `path`; it takes that name when the block ends without an error.

    The folder must exist. A process that is killed leaves a file for `remove_parts`.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART_SUFFIX}")
    try:
        with part.open("x+b") as file:
            _mark_as_written(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sidecar_of(path: Path) -> Path:
    """Return the file beside `path` that says what it is."""
    return path.with_suffix(".json")


def write_with_sidecar(path: Path, content: bytes, sidecar: bytes) -> None:
    """Write a file and then its sidecar; each appears whole.

    Raises:
        OSError: One cannot be written.
    """
    for target, data in ((path, content), (sidecar_of(path), sidecar)):
        with whole_file(target) as file:
            file.write(data)


@contextlib.contextmanager
def scratch_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing and reading that is gone after the block; named so that `remove_parts(path)` finds it."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART_SUFFIX}")
    try:
        with part.open("x+b") as file:
            _mark_as_written(file)
            yield file
    finally:
        part.unlink(missing_ok=True)


def _mark_as_written(file: BinaryIO) -> None:
    """Lock a file for as long as its writer lives: `sweep_parts` leaves it then."""
    with contextlib.suppress(OSError):  # some file systems have no locks
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sweep_parts(folder: Path) -> int:
    """Remove what killed writers left in a folder, whatever it was to become; return how many files that were.

    What is still written, by whatever process of this machine, is left; so is all of it where the file system has no
    locks.
    """
    num_removed = 0
    for part in folder.glob(f".*{PART_SUFFIX}"):
        with contextlib.suppress(OSError), part.open("rb") as file:  # gone, locked, another user's, or no locks here
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(file.fileno()).st_mtime > _LEAST_AGE_S:
                part.unlink()
                num_removed += 1
    return num_removed


def remove_parts(path: Path) -> None:
    """Remove what killed writers of `path` left. The caller must hold the lock that writers of `path` take."""
    for part in path.parent.glob(f".{path.name}.*{PART_SUFFIX}"):
        part.unlink(missing_ok=True)
