"""`jetface embed --url`: the same file as in process, by a running service."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from jetface.cli.main import main
from tests.client.conftest import API_KEY
from tests.support.scripted_server import packed, scripted_server
from tests.support.server import Server, free_port


@pytest.fixture
def photos(tmp_path: Path, shared_images: Path) -> Path:
    """Two pictures with seven faces, and what is no picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(shared_images / "t1.jpg", folder / "a.jpg")
    shutil.copy(shared_images / "ifrest_Stallone.jpg", folder / "b.jpg")
    (folder / "c.jpg").write_bytes(b"no picture")
    return folder


def run(photos: Path, out: Path, *arguments: str) -> Result:
    """Run `jetface embed`."""
    return CliRunner().invoke(main, ["embed", str(photos), "--out", str(out), *arguments], catch_exceptions=False)


def test_a_server_does_the_work(server: Server, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces.parquet"
    result = run(photos, out, "--url", server.url, "--api-key", API_KEY)
    assert result.exit_code == 1
    assert "7 faces of mobilefacenet128; 3 pictures" in result.stdout
    assert "c.jpg: failed: " in result.stderr
    table = pq.read_table(out)
    assert table["path"].to_pylist() == ["a.jpg"] * 6 + ["b.jpg"]
    assert len(table["embedding"][0]) == 128
    assert set(table["landmarks_from"].to_pylist()) == {"detector"}
    assert min(table["visible"].to_pylist()) > 0.5
    assert min(table["quality"].to_pylist()) > 0
    again = run(photos, out, "--url", server.url, "--api-key", API_KEY)
    assert "1 pictures, 2 more were there" in again.stdout


def test_what_is_wrong_with_the_server_is_one_line(server: Server, photos: Path, tmp_path: Path) -> None:
    result = run(photos, tmp_path / "f.parquet", "--url", server.url)
    assert result.exit_code == 1
    assert "unauthorized" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    started = time.monotonic()
    assert "no connection" in run(photos, tmp_path / "f.parquet", "--url", f"http://127.0.0.1:{free_port()}").stderr
    assert time.monotonic() - started < 5
    assert "base_url" in run(photos, tmp_path / "f.parquet", "--url", "localhost:1").stderr


def test_a_service_that_leaves_out_embeddings_is_refused(photos: Path, tmp_path: Path) -> None:
    about = {"name": "m", "task": "recognition", "state": "serving", "is_active": True, "license": "", "backend": None}
    ready = packed({"status": "ready", "models": {}})
    models = packed({"models": [{**about, "embedding_length": 4}]})
    faces = packed({"data": [{"status": "ok", "took_ms": 0, "faces": [{"bbox": [0, 0, 1, 1], "prob": 1}]}]})
    with scripted_server([ready, models, faces]) as served:
        result = run(photos, tmp_path / "f.parquet", "--url", served.url)
    assert result.exit_code == 1
    assert "is it jetface?" in result.stderr


def test_the_client_library_is_optional(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jetface_client", None)
    result = run(photos, tmp_path / "f.parquet", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "pip install jetface-client" in result.stderr
