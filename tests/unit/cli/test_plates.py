"""`jetface plates`: the plates of files and folders, as the service reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jetface.cli.main import main

TEXTS = ["SB90TZI", "B57ZFA"]
"""Of the first picture, those large enough to be sure of."""


def run(*arguments: str | Path) -> Result:
    """Run `jetface plates`."""
    return CliRunner().invoke(main, ["plates", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def folder(traffic: bytes, tmp_path: Path) -> Path:
    """A folder with a picture of traffic, one that is broken, and what is no picture."""
    folder = tmp_path / "traffic"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(traffic)
    (folder / "deeper" / "b.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def _on(monkeypatch: pytest.MonkeyPatch, shared_models: Path, models_dir: Path) -> None:
    """An environment in which plates are read and faces are not looked for."""
    assert models_dir.is_dir()
    monkeypatch.setenv("MODEL_MIRROR", str(shared_models))
    monkeypatch.setenv("MODEL_DOWNLOAD", "0")
    monkeypatch.setenv("BACKEND", "onnxruntime")
    monkeypatch.setenv("DET_MODEL", "none")
    monkeypatch.setenv("REC_MODEL", "none")
    monkeypatch.setenv("PLATE_DET_MODEL", "starter_plate")
    monkeypatch.setenv("PLATE_OCR_MODEL", "plate_ocr_cct_xs")


@pytest.mark.usefixtures("_on")
def test_plates_are_told_for_programs_and_for_people(folder: Path) -> None:
    """In order, with a line for each picture; what fails or is skipped is told as by `jetface extract`."""
    result = run(folder, "--json", "--limit", "2", "--threshold", "0.5")
    assert result.exit_code == 1
    read, broken = map(json.loads, result.stdout.splitlines())
    assert Path(read["path"]) == folder / "a.jpg"
    assert read["image_hw"] == [720, 1280]
    assert [plate["text"] for plate in read["plates"]] == TEXTS
    first = read["plates"][0]
    assert set(first) == {"box", "score", "text", "confidence", "characters"}
    assert "".join(each["character"] for each in first["characters"]) == TEXTS[0]
    assert broken["error"]["code"] == "image_decode"
    assert result.stderr.endswith("skipped 1 file: 1 .txt\nError: 1 of 2 pictures failed\n")

    table = run(folder / "a.jpg", "--min-width", "200")
    assert table.exit_code == 0
    heading, line = table.stdout.splitlines()
    assert heading.startswith(f"{folder / 'a.jpg'}: 1 plate, ")
    assert f"  {TEXTS[0]}  confidence " in line


@pytest.mark.usefixtures("_on")
def test_strict_fails_when_something_was_skipped(folder: Path) -> None:
    (folder / "deeper" / "b.jpg").unlink()
    result = run(folder, "--strict")
    assert result.exit_code == 1
    assert result.stderr == "Error: skipped 1 file: 1 .txt\n"


@pytest.mark.usefixtures("models_dir")
def test_off_it_says_how_to_turn_it_on(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    result = run(tmp_path / "a.jpg")
    assert result.exit_code == 1
    assert "PLATE_DET_MODEL=starter_plate" in result.stderr
