"""The file of faces: columns, formats, parts, and every moment at which a run may be killed."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetface.cli.face_table import FORMATS, FaceTable, Model, open_table, rows_of, schema_of
from jetface.domain import Embedding, Face, PictureResult
from jetface.errors import ImageDecodeError

MODEL = Model("mine", 4)
FIRST_FACE = {
    "face_index": 0,
    "box": [1, 2, 3, 4],
    "score": 0.5,
    "landmarks": [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]],
    "landmarks_from": "detector",
    "visible": 0.75,
    "norm": 20.0,
    "quality": None,
    "embedding": [0.5] * 4,
    "model": "mine",
}
"""The row of the first face of a `picture`, but for its path."""


def picture(path: str, num_faces: int = 1) -> tuple[str, PictureResult]:
    """Return faces that tell their number."""
    faces = tuple(
        Face(
            image_index=0,
            box=np.array([1, 2, 3, 4], np.float32) + number,
            score=0.5,
            landmarks=np.arange(10, dtype=np.float32).reshape(5, 2) + number,
            landmarks_from="detector",
            visible=0.75,
            embedding=Embedding(np.full(4, 0.5, np.float32), 20.0 + number),
        )
        for number in range(num_faces)
    )
    return path, PictureResult(image_index=0, faces=faces)


def failure(path: str) -> tuple[str, PictureResult]:
    return path, PictureResult(image_index=0, error=ImageDecodeError("no picture"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the file goes; nothing is there yet."""
    return tmp_path / "faces.parquet"


def knows(table: FaceTable, *paths: str) -> bool:
    return all(map(table.has, paths))


def paths_in(out: Path) -> list[str]:
    paths: list[str] = pq.read_table(out)["path"].to_pylist()
    return paths


def test_a_row_a_face(out: Path) -> None:
    with open_table(out, MODEL) as table:
        table.add([picture("a/b.jpg", 2), picture("none.jpg", 0)])
        assert table.finish() == 2
    first, second = pq.read_table(out).to_pylist()
    assert first == {"path": "a/b.jpg", **FIRST_FACE}
    assert second["face_index"] == 1
    assert second["landmarks"][4] == [9, 10]
    assert pq.read_schema(out).field("embedding").type == pa.list_(pa.float32(), 4)


def test_what_failed_and_what_shows_nobody_has_a_row_while_the_run_goes_on() -> None:
    """In order; the file of `embed` leaves them out, the folder of `bulk` has them."""
    rows = rows_of([failure("broken"), picture("a", 2), picture("none", 0)], MODEL).to_pylist()
    assert [(row["path"], row["face_index"], row["error"]) for row in rows] == [
        ("broken", None, "no picture"), ("a", 0, None), ("a", 1, None), ("none", None, None),
    ]  # fmt: skip
    assert rows[0]["embedding"] is rows[3]["box"] is None


@pytest.mark.parametrize("ending", FORMATS)
def test_the_ending_says_the_format_and_each_grows_as_the_others_do(tmp_path: Path, ending: str) -> None:
    """A second run adds rows to those there are, in the same columns, and takes no other model's."""
    out = tmp_path / f"faces{ending}"
    for name in ('a "quoted", name.jpg', "b.jpg"):
        with open_table(out, MODEL) as table:
            assert table.has('a "quoted", name.jpg') == (name == "b.jpg")
            table.add([picture(name, 2)])
            assert table.finish() == (2 if name != "b.jpg" else 4)
    (read,) = FORMATS[ending].read(out, schema_without_error()) if ending != ".parquet" else (pq.read_table(out),)
    assert read["path"].to_pylist() == ['a "quoted", name.jpg'] * 2 + ["b.jpg"] * 2
    assert read.slice(0, 1).drop(["path"]).to_pylist() == [FIRST_FACE]
    with pytest.raises(click.ClickException, match="embeddings of mine"), open_table(out, Model("other", 4)):
        pass


def schema_without_error() -> pa.Schema:
    return pa.schema([field for field in schema_of(4) if field.name != "error"])


def test_other_programs_read_what_is_written(tmp_path: Path) -> None:
    """CSV by the standard library, with lists as JSON; JSON lines; NumPy without pickles."""
    for ending in (".csv", ".jsonl", ".npz"):
        with open_table(tmp_path / f"f{ending}", MODEL) as table:
            table.add([picture("a", 2)])
            table.finish()
    first, _ = csv.DictReader((tmp_path / "f.csv").read_text().splitlines())
    assert (first["embedding"], first["score"], first["quality"]) == ("[0.5,0.5,0.5,0.5]", "0.5", "")
    assert json.loads(first["landmarks"])[4] == [8, 9]
    assert json.loads((tmp_path / "f.jsonl").read_text().splitlines()[1])["face_index"] == 1
    arrays = np.load(tmp_path / "f.npz")
    assert (arrays["embedding"].shape, arrays["landmarks"].shape, arrays["path"].tolist()) == (
        (2, 4), (2, 5, 2), ["a", "a"],
    )  # fmt: skip


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"\.parquet, \.csv"), open_table(tmp_path / "f.txt", MODEL):
        pass


def test_a_picture_that_was_changed_is_looked_at_again_and_replaced(out: Path) -> None:
    with open_table(out, MODEL) as table:
        table.add([picture("a", 2), picture("b")])
        table.finish()
    later_s = out.stat().st_mtime + 1
    with open_table(out, MODEL) as table:
        assert table.has("b", later_s - 2)
        assert not table.has("a", later_s)
        table.add([picture("a", 1)])
        assert table.finish() == 2
    assert paths_in(out) == ["b", "a"]


def test_a_picture_that_failed_is_looked_at_again(out: Path) -> None:
    """One that was there, and is broken now, is there no more."""
    with open_table(out, MODEL) as table:
        table.add([picture("a"), failure("b")])
        assert not table.has("b")
        assert table.finish() == 1
    with open_table(out, MODEL) as table:
        table.add([failure("a")])
        assert not table.has("a")
        assert table.finish() == 0


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
        assert knows(table, "a", "none")
        table.add([picture("b", 2)])
        assert table.finish() == 3
    with open_table(out, MODEL) as table:
        assert knows(table, "a", "none", "b")
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
        assert knows(table, "a")
        assert not table.has("b")
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
        assert knows(table, "a", "none")
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
        assert not table.has("a")
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
                if table.has(str(number)):
                    continue
                table.add([picture(str(number), num_faces)])
                expected[str(number)] = num_faces
            if data.draw(st.booleans()):
                table.finish()
    with open_table(out, MODEL) as table:
        assert {str(number) for number in range(10) if table.has(str(number))} == expected.keys()
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


@pytest.mark.parametrize("ending", [*FORMATS, "table of others"])
def test_a_file_of_others_is_left_alone(tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"faces{ending if ending in FORMATS else '.parquet'}"
    if ending in FORMATS:
        out.write_text("no table\n1\n")
    else:
        pq.write_table(pa.table({"path": ["a"]}), out)
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
