"""What `jetface bulk` finds, reads and leaves out; Ray itself is in `tests/e2e/test_bulk.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("ray", reason="Ray is not installed: requirements/dev.txt has it")

from jetface.cli.bulk_work import Embedder, Work, find, looked_at
from jetface.settings import Settings
from tests.support.drawn import PEOPLE, draw_group, draw_portrait, encode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two people, one, none, and what is no picture."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    (folder / "two.jpg").write_bytes(encode(draw_group(PEOPLE[:2]), ".jpg"))
    (folder / "below/one.jpg").write_bytes(encode(draw_portrait(PEOPLE[0]), ".jpg"))
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.md").write_text("none")
    return folder


def names(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


def test_a_folder_is_searched_by_its_suffixes(folder: Path) -> None:
    assert names(find(str(folder), "path")) == ["one.jpg", "broken.jpg", "two.jpg"]


def test_globs_and_stores_are_searched_too(folder: Path) -> None:
    assert names(find(f"{folder}/*.jpg", "path")) == ["broken.jpg", "two.jpg"]
    assert names(find(f"file://{folder}", "path")) == ["one.jpg", "broken.jpg", "two.jpg"]


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".txt"])
def test_lists_name_each_picture_once(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"list{ending}"
    wanted = ["s3://pictures/b.jpg", "/a.jpg"]
    if ending == ".parquet":
        pq.write_table(pa.table({"place": [*wanted, *wanted]}), file)
    else:
        file.write_text("\n".join((["place"] if ending == ".csv" else []) + wanted * 2))
    assert find(str(file), "place") == sorted(wanted)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\n/a.jpg\n")
    for source in (str(tmp_path / "none"), str(tmp_path / "none.csv")):
        with pytest.raises(click.ClickException, match="none"):
            find(source, "path")
    with pytest.raises(click.ClickException, match="cannot be read"):
        find(str(tmp_path / "list.csv"), "other")


class TestEmbedder:
    """An actor's work, with the real pipeline."""

    @pytest.fixture
    def embedder(self, tmp_path: Path) -> Iterator[Embedder]:
        settings = Settings(
            models_dir=tmp_path / "models",
            model_download=False,
            det_model="starter_det",
            rec_model="starter_rec",
            backend="onnxruntime",
            max_body_bytes=200_000,
        )
        work = Work(settings=settings, out=str(tmp_path / "out"), threshold=None, limit_faces=0)
        embedder = Embedder(work)
        yield embedder
        asyncio.run_coroutine_threadsafe(embedder._stack.aclose(), embedder._loop).result(30)
        embedder._loop.call_soon_threadsafe(embedder._loop.stop)
        embedder._thread.join(30)
        embedder._loop.close()

    def test_each_picture_has_its_rows(self, folder: Path, tmp_path: Path, embedder: Embedder) -> None:
        """A row a face, or one with what was wrong; done twice it is there once."""
        (folder / "long.jpg").write_bytes(bytes(200_001))
        paths = [str(folder / name) for name in ("two.jpg", "below/one.jpg", "broken.jpg", "gone.jpg", "long.jpg")]
        for _ in range(2):
            done = embedder(pa.table({"path": paths})).to_pylist()
            assert done == [{"pictures": 5, "failed": 3, "faces": 3}]
        (file,) = (tmp_path / "out").glob("*.parquet")
        rows = pq.read_table(file).to_pylist()
        assert [(Path(row["path"]).name, row["face_index"]) for row in rows] == [
            ("two.jpg", 0),
            ("two.jpg", 1),
            ("one.jpg", 0),
            ("broken.jpg", None),
            ("gone.jpg", None),
            ("long.jpg", None),
        ]
        for row in rows[:3]:
            assert (len(row["box"]), len(row["landmarks"]), len(row["embedding"])) == (4, 10, 512)
            assert 0 < row["quality"] <= 1
            assert row["model"] == "starter_rec"
            assert row["error"] is None
        assert "FileNotFoundError" in rows[4]["error"]
        assert "MAX_BODY_BYTES" in rows[5]["error"]
        assert looked_at(str(tmp_path / "out")) == set(paths)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    assert looked_at(str(tmp_path / "none")) == set()
    pq.write_table(pa.table({"other": [1]}), tmp_path / "a.parquet")
    with pytest.raises(click.ClickException, match="not written by"):
        looked_at(str(tmp_path))
