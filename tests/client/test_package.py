"""The client as a distribution: alone, typed, and as its README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.client.conftest import API_KEY
from tests.support.server import Server
from tests.support.shared import REPOSITORY

PROJECT = REPOSITORY / "clients" / "python"
README = (PROJECT / "README.md").read_text(encoding="utf-8")
SOURCES = """
import io
from pathlib import Path

import numpy as np
from PIL import Image
from jetface_client import Client, PictureSource, Url

sources: list[PictureSource] = ["t1.jpg", Path("t1.jpg"), b"", bytearray(), open("t1.jpg", "rb"), io.BytesIO()]
sources += [np.zeros((8, 8, 3), np.uint8), np.asarray(Image.new("RGB", (8, 8)))[..., ::-1], Url("cat.jpg")]
with Client() as client:
    for source in sources:
        client.extract(source)
    client.compare("t1.jpg", io.BytesIO())
    client.collections["people"].enrol("ada", [np.zeros((8, 8, 3), np.uint8), "ada.jpg"])
    list(client.extract_files(["t1.jpg", Path("t1.jpg")]))
"""
"""What the README's table of pictures says, in a program."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(PROJECT)], check=True, timeout=60)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_client_and_says_it_is_typed(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "jetface_client/py.typed" in names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"jetface_client"}


def test_the_client_needs_nothing_of_the_service(wheel: Path) -> None:
    """Imported from its wheel, away from the checkout: three libraries, and the standard one."""
    program = (
        f"import sys; sys.path.insert(0, {str(wheel)!r}); import jetface_client;"
        "assert 'whl' in jetface_client.__file__;"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'jetface', 'fastapi', 'pydantic', 'cv2'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, check=True, timeout=30)
    assert done.stdout.strip() == b""
    metadata = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    requirements = re.findall(r"Requires-Dist: (\w+)", zipfile.ZipFile(wheel).read(metadata).decode())
    assert sorted(requirements) == ["httpx", "numpy", "ormsgpack"]


def test_the_readmes_programs_have_types(tmp_path: Path) -> None:
    """By mypy's strictest rules, as whoever copies them may have them."""
    pages = README + (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for number, program in enumerate(re.findall(r"```python\n(.*?)```", pages, flags=re.DOTALL)):
        (tmp_path / f"program{number}.py").write_text(program, encoding="utf-8")
    (tmp_path / "sources.py").write_text(SOURCES, encoding="utf-8")
    programs = sorted(path.name for path in tmp_path.glob("*.py"))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", *programs]
    environ = {**os.environ, "MYPYPATH": str(PROJECT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=110
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert len(programs) == 5


@pytest.mark.parametrize("number", range(4))
def test_the_readmes_programs_run(
    number: int,
    server: Server,
    shared_images: Path,
    shared_faces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As they stand there, beside pictures and a folder of one."""
    program = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[number]
    client = f'Client("{server.url}", api_key="{API_KEY}")'
    program, count = re.subn(r'Client\((?:"http://127.0.0.1:18080")?\)', client, program)
    assert count == 1
    (tmp_path / "photos").mkdir()
    shutil.copy(shared_images / "t1.jpg", tmp_path / "t1.jpg")
    shutil.copy(shared_images / "t1.jpg", tmp_path / "photos" / "t1.jpg")
    shutil.copy(shared_images / "t1.jpg", tmp_path / "group.jpg")
    for photograph in (1, 2):
        shutil.copy(shared_faces / "Adrien_Brody" / f"{photograph}.jpg", tmp_path / f"ada{photograph}.jpg")
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "6" in done.stdout
