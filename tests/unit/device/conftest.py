"""Trees of `/sys` and `/proc` as machines have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support import machines

PlantTree = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def plant(tmp_path: Path) -> PlantTree:
    """Write files below a folder; return the folder, to be given as `root`."""
    return lambda files: machines.plant(tmp_path / "root", files)
