"""What an actor of `jetface bulk` does, and what a later run leaves out; Ray itself is in `tests/e2e/test_bulk.py`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("ray", reason="Ray is not installed: requirements/dev.txt has it")

from jetface.cli.bulk import Actor, Work, looked_at
from jetface.cli.pictures import Wish, readable_name
from jetface.settings import Settings
from tests.support.drawn import PEOPLE, draw_group, draw_portrait, encode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two people, one, and what is no picture."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    (folder / "two.jpg").write_bytes(encode(draw_group(PEOPLE[:2]), ".jpg"))
    (folder / "below/one.jpg").write_bytes(encode(draw_portrait(PEOPLE[0]), ".jpg"))
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


class TestActor:
    """An actor's work, with the real pipeline."""

    @pytest.fixture
    def actor(self, tmp_path: Path) -> Iterator[Actor]:
        settings = Settings(
            models_dir=tmp_path / "models",
            model_download=False,
            det_model="starter_det",
            rec_model="starter_rec",
            backend="onnxruntime",
            max_body_bytes=200_000,
        )
        work = Work(settings=settings, out=str(tmp_path / "out"), wish=Wish())
        actor = Actor(work)
        yield actor
        asyncio.run_coroutine_threadsafe(actor._stack.aclose(), actor._loop).result(30)
        actor._loop.call_soon_threadsafe(actor._loop.stop)
        actor._thread.join(30)
        actor._loop.close()

    def test_each_picture_has_its_rows(self, folder: Path, tmp_path: Path, actor: Actor) -> None:
        """A row a face, or one with what was wrong; done twice it is there once."""
        (folder / "long.jpg").write_bytes(bytes(200_001))
        paths = [str(folder / name) for name in ("two.jpg", "below/one.jpg", "broken.jpg", "gone.jpg", "long.jpg")]
        (folder / "broken.jpg").rename(folder / os.fsdecode(b"bro\xe9.jpg"))
        paths[2] = str(folder / os.fsdecode(b"bro\xe9.jpg"))
        for _ in range(2):
            done = actor(pa.table({"address": list(map(os.fsencode, paths))})).to_pylist()
            assert done == [{"pictures": 5, "failed": 3, "faces": 3}]
        (file,) = (tmp_path / "out").glob("*.parquet")
        # Those of a fixed length, nulls among them, are beyond the pyarrow of Python 3.10.
        assert not [field for field in pq.read_schema(file) if pa.types.is_fixed_size_list(field.type)]
        rows = pq.read_table(file).to_pylist()
        assert [(Path(row["path"]).name, row["face_index"]) for row in rows] == [
            ("two.jpg", 0),
            ("two.jpg", 1),
            ("one.jpg", 0),
            (r"bro\xe9.jpg", None),
            ("gone.jpg", None),
            ("long.jpg", None),
        ]
        for row in rows[:3]:
            assert (len(row["box"]), len(row["landmarks"]), len(row["embedding"])) == (4, 5, 512)
            assert (row["landmarks_from"], row["visible"]) == ("detector", 1)
            assert 0 < row["quality"] <= 1
            assert row["model"] == "starter_rec"
            assert row["error"] is None
        assert "No such file" in rows[4]["error"]
        assert "MAX_BODY_BYTES" in rows[5]["error"]
        assert looked_at(str(tmp_path / "out")) == set(map(readable_name, paths))


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    assert looked_at(str(tmp_path / "none")) == set()
    pq.write_table(pa.table({"other": [1]}), tmp_path / "a.parquet")
    with pytest.raises(click.ClickException, match="not written by"):
        looked_at(str(tmp_path))
