"""The optional shared folder: real weights and pictures, too large or not free enough to live in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
"""Root of the checkout."""


def shared_dir() -> Path:
    """Return the shared folder: `SHARED_DIR`, else `shared` beside the checkout. It may not exist."""
    return Path(os.environ.get("SHARED_DIR") or REPOSITORY.parent / "shared").resolve()


def require_shared(*parts: str) -> Path:
    """Return a file or folder of the shared folder, or end the test when it is not there.

    Where `CI` is set a missing asset fails the test; on a person's machine it skips, saying what is missing.
    """
    path = shared_dir().joinpath(*parts)
    if not path.exists():
        reason = f"{'/'.join(('SHARED_DIR', *parts))} is not there: set SHARED_DIR to a folder that has it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
