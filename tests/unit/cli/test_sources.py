"""What `jetface embed` and `jetface bulk` are pointed at."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from zipfile import ZipFile

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jetface.cli.sources import Source, find
from jetface.settings import Settings
from tests.support.file_server import Answer, file_server

SETTINGS = Settings(max_body_bytes=1024)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures by their names, and what is none."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name in ("two.jpg", "below/one.jpg", "broken.jpg"):
        (folder / name).write_bytes(name.encode())
    (folder / "notes.md").write_text("none")
    return folder


def names(sources: list[Source]) -> list[str]:
    return [Path(source.address.partition("::")[0]).name for source in sources]


def test_a_folder_is_searched_by_its_suffixes(folder: Path) -> None:
    """Names are below the folder; what else lies there is counted."""
    skipped: Counter[str] = Counter()
    found = find(str(folder), SETTINGS, skipped=skipped)
    assert [source.name for source in found] == ["below/one.jpg", "broken.jpg", "two.jpg"]
    assert [source.read() for source in found] == [b"below/one.jpg", b"broken.jpg", b"two.jpg"]
    assert found[0].changed_s() == (folder / "below/one.jpg").stat().st_mtime
    assert skipped == {".md": 1}


def test_globs_and_stores_are_searched_too(folder: Path) -> None:
    """An archive is one, too."""
    assert names(find(f"{folder}/*.jpg", SETTINGS)) == ["broken.jpg", "two.jpg"]
    assert names(find(f"file://{folder}", SETTINGS)) == ["one.jpg", "broken.jpg", "two.jpg"]
    archive = folder.with_suffix(".zip")
    with ZipFile(archive, "w") as written:
        written.write(folder / "two.jpg", "deeper/two.jpg")
    (found,) = find(f"zip://*/*.jpg::{archive}", SETTINGS)
    assert (found.name, found.read()) == (f"zip://deeper/two.jpg::{archive}", b"two.jpg")


@pytest.mark.parametrize("name", ["photo[1].jpg", "what?.jpg", "no_suffix"])
def test_a_file_that_is_there_is_taken_whatever_its_name(tmp_path: Path, name: str) -> None:
    """Though it looks like a glob that finds nothing, or something else."""
    for other in (name, "photo1.jpg", "whats.jpg"):
        (tmp_path / other).write_bytes(other.encode())
    (found,) = find(str(tmp_path / name), SETTINGS)
    assert found.read() == name.encode()


def test_a_list_names_files_that_are_not_utf_8(tmp_path: Path) -> None:
    picture = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    picture.write_bytes(b"picture")
    listed = tmp_path / "list.txt"
    listed.write_bytes(os.fsencode(picture) + b"\r\n \n")
    (found,) = find(str(listed), SETTINGS)
    assert (found.read(), Path(found.name).name) == (b"picture", r"caf\xe9.jpg")


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".txt"])
def test_lists_name_each_picture_once(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"list{ending}"
    wanted = ["s3://pictures/b.jpg", "/a.jpg"]
    if ending == ".parquet":
        pq.write_table(pa.table({"place": [*wanted, *wanted]}), file)
    else:
        file.write_text("\n".join((["place"] if ending == ".csv" else []) + wanted * 2))
    found = find(str(file), SETTINGS, column="place")
    assert [source.address for source in found] == [source.name for source in found] == sorted(wanted)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\n/a.jpg\n")
    (tmp_path / "empty").mkdir()
    for source in ("none", "none.csv", "empty"):
        with pytest.raises(click.ClickException, match=source):
            find(str(tmp_path / source), SETTINGS)
    with pytest.raises(click.ClickException, match="cannot be read"):
        find(str(tmp_path / "list.csv"), SETTINGS, column="other")


def test_a_list_on_a_web_server_names_pictures_on_one() -> None:
    with file_server({"/a.jpg": Answer(b"a"), "/long.jpg": Answer(bytes(1025))}) as server:
        addresses = [f"{server.url}/{name}.jpg" for name in ("a", "gone", "long")]
        server.answers["/list.csv"] = Answer("\n".join(["path", *addresses]).encode())
        first, gone, long = find(f"{server.url}/list.csv", SETTINGS)
        assert (first.name, first.read()) == (addresses[0], b"a")
        for source, why in ((gone, "404"), (long, "MAX_BODY_BYTES, 1024")):
            with pytest.raises(OSError, match=why):
                source.read()


def test_a_picture_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "long.jpg").write_bytes(bytes(1025))
    (tmp_path / "list.txt").write_text(f"{tmp_path}/long.jpg\n{tmp_path}/gone.jpg\nnowhere://a.jpg\n")
    for source, why in zip(
        find(str(tmp_path / "list.txt"), SETTINGS), ("No such file", "MAX_BODY_BYTES, 1024", "nowhere"), strict=True
    ):
        with pytest.raises(OSError, match=why):
            source.read()
    assert find(str(tmp_path / "list.txt"), SETTINGS)[0].changed_s() == 0
