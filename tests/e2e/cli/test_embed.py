"""`jetface embed`: the pictures of a folder into one file, in process."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from jetface.cli.main import main
from tests.support.server import service_environ


@pytest.fixture(scope="session")
def variables(weights: dict[str, str]) -> dict[str, str]:
    """Settings of a command that finds real weights, those of a recognizer of 128 numbers."""
    return {**weights, "MODEL_DOWNLOAD": "0", "REC_MODEL": "mobilefacenet128"}


@pytest.fixture(autouse=True)
def _environ(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def photos(tmp_path: Path, shared_images: Path) -> Path:
    """A folder with six faces, one face below it, none, and what is no picture."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    shutil.copy(shared_images / "t1.jpg", folder / "a.jpg")
    shutil.copy(shared_images / "ifrest_Stallone.jpg", folder / "deeper" / "b.jpg")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def run(*arguments: str | Path) -> Result:
    """Run `jetface embed`."""
    return CliRunner().invoke(main, ["embed", *map(str, arguments)], catch_exceptions=False)


def test_a_row_a_face(photos: Path, tmp_path: Path) -> None:
    """A picture that fails is named, tried again next time, and makes exit code 1; the others are there."""
    out = tmp_path / "faces.parquet"
    result = run(photos, "--out", out)
    assert result.exit_code == 1
    assert "7 faces of mobilefacenet128; 3 pictures" in result.stdout
    assert "broken.png: failed: " in result.stderr
    table = pq.read_table(out)
    assert table["path"].to_pylist() == ["a.jpg"] * 6 + ["deeper/b.jpg"]
    assert table["face_index"].to_pylist() == [0, 1, 2, 3, 4, 5, 0]
    assert set(table["model"].to_pylist()) == {"mobilefacenet128"}
    assert set(table["landmarks_from"].to_pylist()) == {"detector"}
    assert 0.5 < min(table["visible"].to_pylist()) <= 1
    assert 0 < min(table["quality"].to_pylist()) <= 1
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    (photos / "broken.png").unlink()
    again = run(photos, "--out", out)
    assert again.exit_code == 0
    assert "7 faces of mobilefacenet128; 0 pictures, 2 more were there" in again.stdout


def test_any_name_is_kept_and_what_is_skipped_is_counted(photos: Path, tmp_path: Path) -> None:
    """A name that is not UTF-8 is a row like others, and is known again in the next run."""
    out = tmp_path / "faces.parquet"
    (photos / "a.jpg").rename(photos / os.fsdecode(b"ren\xe9.jpg"))
    (photos / "broken.png").rename(photos / "film.mov")
    result = run(photos, "--out", out)
    assert result.exit_code == 0
    assert "skipped 1 file: 1 .mov" in result.stderr
    assert set(pq.read_table(out)["path"].to_pylist()) == {r"ren\xe9.jpg", "deeper/b.jpg"}
    again = run(photos, "--out", out, "--strict")
    assert again.exit_code == 1
    assert "0 pictures, 2 more were there" in again.stdout


def test_options_decide_which_faces(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").unlink()
    result = run(photos, "--out", tmp_path / "f.parquet", "--limit-faces", "1", "--threshold", "0.5", "--chunk", "1")
    assert result.exit_code == 0
    assert pq.read_table(tmp_path / "f.parquet").num_rows == 2
    assert run(f"{photos}/*.jpg", "--out", tmp_path / "good.csv", "--min-quality", "0.5").exit_code == 0
    rows = list(csv.DictReader((tmp_path / "good.csv").read_text().splitlines()))
    assert 0 < len(rows) < 7
    assert {row["path"] for row in rows} == {str(photos / "a.jpg")}
    assert len(json.loads(rows[0]["embedding"])) == 128
    assert "one of .parquet, .csv, .jsonl, .npz" in run(photos, "--out", tmp_path / "f.txt").stderr


def test_a_killed_run_is_taken_up_where_it_was(variables: dict[str, str], shared_faces: Path, tmp_path: Path) -> None:
    """SIGKILL after three parts of two: they are kept, the next run looks at the others, each picture is there once."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, picture in enumerate(sorted(shared_faces.rglob("*.jpg"))[:60]):
        shutil.copy(picture, photos / f"{number:02d}.jpg")
    out = tmp_path / "faces.parquet"
    parts_dir = tmp_path / "faces.parquet.parts"
    program = str(Path(sys.executable).with_name("jetface"))
    command = [program, "embed", str(photos), "--out", str(out), "--chunk", "2"]
    with subprocess.Popen(command, env=service_environ(variables), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while len(list(parts_dir.glob("0*.parquet"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert not out.exists()
    kept = sum(pq.read_metadata(part).num_rows for part in parts_dir.glob("0*.parquet"))
    assert kept >= 6
    result = run(photos, "--out", out)
    assert result.exit_code == 0
    (num_kept,) = re.findall(r"(\d+) more were there", result.stdout)
    assert int(num_kept) >= 6
    assert sorted(set(pq.read_table(out)["path"].to_pylist())) == [f"{number:02d}.jpg" for number in range(60)]
    rows = list(zip(*(pq.read_table(out)[name].to_pylist() for name in ("path", "face_index")), strict=True))
    assert len(rows) == len(set(rows))
    assert not parts_dir.exists()


def test_pyarrow_is_optional(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needing = ("pyarrow", "jetface.cli.face_table", "jetface.cli.embed", "jetface.cli.sources")
    for module in [name for name in sys.modules if name.startswith(needing)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run(photos, "--out", tmp_path / "f.parquet")
    assert result.exit_code == 1
    assert result.stderr == "Error: `jetface embed` needs pyarrow: pip install 'jetface[parquet]'\n"


def test_embeddings_need_a_recognizer(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REC_MODEL", "none")
    result = run(photos, "--out", tmp_path / "f.parquet")
    assert result.exit_code == 1
    assert "REC_MODEL is none" in result.stderr
