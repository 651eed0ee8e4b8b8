"""Trees of `/sys` and `/proc` as machines have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

PlantTree = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def plant(tmp_path: Path) -> PlantTree:
    """Write files below a folder; return the folder, to be given as `root`."""

    def write(files: Mapping[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path / "root"

    return write
