"""The Parquet file of faces: columns, parts, and every moment at which a run may be killed."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetface.cli.face_table import FacesOfPicture, Model, open_table
from jetface.domain import Embedding, Face

MODEL = Model("mine", 4)


def picture(path: str, num_faces: int = 1) -> FacesOfPicture:
    """Return faces that tell their number."""
    faces = tuple(
        Face(
            image_index=0,
            box=np.array([1, 2, 3, 4], np.float32) + number,
            score=0.5,
            landmarks=np.arange(10, dtype=np.float32).reshape(5, 2) + number,
            embedding=Embedding(np.full(4, 0.5, np.float32), 20.0 + number),
        )
        for number in range(num_faces)
    )
    return FacesOfPicture(path, faces)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the file goes; nothing is there yet."""
    return tmp_path / "faces.parquet"


def paths_in(out: Path) -> list[str]:
    paths: list[str] = pq.read_table(out)["path"].to_pylist()
    return paths


def test_a_row_a_face(out: Path) -> None:
    with open_table(out, MODEL) as table:
        table.add([picture("a/b.jpg", 2), picture("none.jpg", 0)])
        assert table.finish() == 2
    first, second = pq.read_table(out).to_pylist()
    assert first == {
        "path": "a/b.jpg",
        "face_index": 0,
        "box": [1, 2, 3, 4],
        "score": 0.5,
        "landmarks": [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]],
        "norm": 20.0,
        "embedding": [0.5] * 4,
        "model": "mine",
    }
    assert second["face_index"] == 1
    assert second["landmarks"][4] == [9, 10]
    assert pq.read_schema(out).field("embedding").type == pa.list_(pa.float32(), 4)


def test_the_folder_of_parts_goes_when_all_is_in_the_file(out: Path) -> None:
    with open_table(out, MODEL) as table:
        table.add([picture("a")])
        table.finish()
    assert [path.name for path in out.parent.iterdir()] == ["faces.parquet"]


def test_a_second_run_knows_what_was_looked_at(out: Path) -> None:
    """Pictures without faces too."""
    with open_table(out, MODEL) as table:
        table.add([picture("a"), picture("none", 0)])
        table.finish()
    with open_table(out, MODEL) as table:
        assert table.looked_at == {"a", "none"}
        table.add([picture("b", 2)])
        assert table.finish() == 3
    with open_table(out, MODEL) as table:
        assert table.looked_at == {"a", "none", "b"}
        written = out.stat().st_mtime_ns
        assert table.finish() == 3
    assert out.stat().st_mtime_ns == written
    assert paths_in(out) == ["a", "b", "b"]


def test_no_picture_gives_an_empty_file(out: Path) -> None:
    with open_table(out, MODEL) as table:
        table.add([])
        assert table.finish() == 0
    assert pq.read_table(out).num_rows == 0


def test_an_interrupted_run_keeps_its_parts(out: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), open_table(out, MODEL) as table:
        table.add([picture("a")])
        raise KeyboardInterrupt
    assert not out.exists()
    with open_table(out, MODEL) as table:
        assert table.looked_at == {"a"}
        table.add([picture("b")])
        assert table.finish() == 2
    assert paths_in(out) == ["a", "b"]


def test_a_run_killed_before_its_parts_went_doubles_nothing(out: Path, tmp_path: Path) -> None:
    """The file has its name already, the parts are still there."""
    parts_dir = out.with_name("faces.parquet.parts")
    with open_table(out, MODEL) as table:
        table.add([picture("a")])
        table.add([picture("none", 0)])
        shutil.copytree(parts_dir, tmp_path / "kept")
        table.finish()
    shutil.copytree(tmp_path / "kept", parts_dir)
    with open_table(out, MODEL) as table:
        assert table.looked_at == {"a", "none"}
        table.add([picture("b")])
        assert table.finish() == 2
    assert paths_in(out) == ["a", "b"]
    assert not parts_dir.exists()


def test_half_a_part_is_none(out: Path) -> None:
    """What a killed writer left under its temporary name is not taken for a part, and goes."""
    parts_dir = out.with_name("faces.parquet.parts")
    parts_dir.mkdir()
    (parts_dir / ".00000001.parquet.abc.part").write_bytes(b"half")
    (out.parent / ".faces.parquet.abc.part").write_bytes(b"half")
    with open_table(out, MODEL) as table:
        assert table.looked_at == frozenset()
        table.add([picture("a")])
        table.finish()
    assert [path.name for path in out.parent.iterdir()] == ["faces.parquet"]


@settings(max_examples=25)
@given(runs=st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=4), max_size=5), data=st.data())
def test_however_runs_end_each_picture_is_there_once(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[list[tuple[int, int]]],
    data: st.DataObject,
) -> None:
    """Each run adds what is new in parts of one, and may be killed before it finishes."""
    out = tmp_path_factory.mktemp("runs") / "faces.parquet"
    expected: dict[str, int] = {}
    for run in runs:
        with open_table(out, MODEL) as table:
            for number, num_faces in run:
                if str(number) in table.looked_at:
                    continue
                table.add([picture(str(number), num_faces)])
                expected[str(number)] = num_faces
            if data.draw(st.booleans()):
                table.finish()
    with open_table(out, MODEL) as table:
        assert table.looked_at == expected.keys()
        assert table.finish() == sum(expected.values())
    found = paths_in(out)
    assert {path: found.count(path) for path in expected} == expected


def test_one_run_at_a_time(out: Path) -> None:
    with (
        open_table(out, MODEL),
        pytest.raises(click.ClickException, match="another run is writing"),
        open_table(out, MODEL),
    ):
        pass


def test_embeddings_of_another_model_do_not_mix(out: Path) -> None:
    with open_table(out, MODEL) as table:
        table.add([picture("a")])
        table.finish()
    with pytest.raises(click.ClickException, match="embeddings of mine"), open_table(out, Model("other", 4)):
        pass


@pytest.mark.parametrize("is_parquet", [True, False])
def test_a_file_of_others_is_left_alone(out: Path, *, is_parquet: bool) -> None:
    if is_parquet:
        pq.write_table(pa.table({"path": ["a"]}), out)
    else:
        out.write_text("no table")
    before = out.read_bytes()
    with pytest.raises(click.ClickException, match="not written by"), open_table(out, MODEL):
        pass
    assert out.read_bytes() == before


def test_what_cannot_be_written_is_one_line(out: Path) -> None:
    """The folder of the file is a file; a part's name is taken by a folder."""
    out.write_text("a file")
    with pytest.raises(click.ClickException, match="cannot be written"), open_table(out / "below.parquet", MODEL):
        pass
    out.unlink()
    with open_table(out, MODEL) as table:
        (out.with_name("faces.parquet.parts") / "00000001.parquet").mkdir()
        with pytest.raises(click.ClickException, match=r"0001\.parquet cannot be written"):
            table.add([picture("a")])
        (out.with_name("faces.parquet.parts") / "00000001.parquet").rmdir()
