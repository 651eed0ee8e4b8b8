"""The page is part of what is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path

from tests.support.shared import REPOSITORY


def test_the_wheel_holds_the_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    folder = resources.files("jetface.page")
    expected = {f"jetface/page/assets/{file.name}" for file in folder.joinpath("assets").iterdir()}
    assert {"jetface/page/index.html", *expected} <= names
