"""`jetface find` and `jetface group` on the pictures of a few people."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from jetface.cli.group import group_faces
from jetface.cli.main import main
from tests.support.server import service_environ

PEOPLE = ("Abdullah_Gul", "Adrien_Brody", "Al_Gore", "Ana_Guevara")


@pytest.fixture(scope="module")
def variables(weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a command that finds real weights, and keeps faces in a cache of its own."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return {**weights, "MODEL_DOWNLOAD": "0", "BACKEND": "onnxruntime", "XDG_CACHE_HOME": cache}


@pytest.fixture
def album(tmp_path: Path, shared_faces: Path) -> Path:
    """Three pictures of each of four people, and one of somebody else; three faces stand in the background."""
    folder = tmp_path / "album"
    for person in PEOPLE:
        (folder / person).mkdir(parents=True)
        for number in (1, 2, 3):
            shutil.copyfile(shared_faces / person / f"{number}.jpg", folder / person / f"{number}.jpg")
    shutil.copyfile(shared_faces / "Zhang_Ziyi" / "1.jpg", folder / "once.jpg")
    (folder / "film.mov").write_bytes(b"no picture")
    return folder


def run(variables: dict[str, str], *arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)), env=variables, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_the_pictures_of_a_person_are_found_and_kept_for_the_next(
    variables: dict[str, str], album: Path, shared_faces: Path
) -> None:
    """Whoever is looked for next, only what is new or was changed is looked at."""
    who = shared_faces / "Al_Gore" / "4.jpg"
    forgotten = Path(variables["XDG_CACHE_HOME"], "jetface", "faces", "forgotten.parquet")
    forgotten.parent.mkdir(parents=True)
    forgotten.touch()
    os.utime(forgotten, (0, time.time() - 91 * 86_400))
    first = run(variables, "find", who, album)
    assert not forgotten.exists()
    assert "older than 90 days: 1" in first.stderr
    assert {Path(line.partition(":")[0]) for line in first.stdout.splitlines()} == {
        album / "Al_Gore" / f"{number}.jpg" for number in (1, 2, 3)
    }
    similarities = [float(found) for found in re.findall(r": (0\.\d+)", first.stdout)]
    assert similarities == sorted(similarities, reverse=True)
    assert "3 of 16 faces are as similar as 0.3; 13 pictures, 13 looked at now" in first.stderr
    assert "skipped 1 file: 1 .mov" in first.stderr

    (album / "Al_Gore" / "1.jpg").unlink()
    shutil.copyfile(shared_faces / "Ana_Guevara" / "4.jpg", album / "once.jpg")
    os.utime(album / "once.jpg", (time.time() + 5, time.time() + 5))
    second = run(variables, "find", shared_faces / "Ana_Guevara" / "1.jpg", album, "--json")
    found = [json.loads(line) for line in second.stdout.splitlines()]
    assert {Path(each["path"]).relative_to(album).as_posix() for each in found} == {
        "Ana_Guevara/1.jpg", "Ana_Guevara/2.jpg", "Ana_Guevara/3.jpg", "once.jpg",
    }  # fmt: skip
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert (len(found[0]["box"]), found[0]["face_index"]) == (4, 0)
    assert "12 pictures, 1 looked at now" in second.stderr

    rows = list(csv.DictReader(io.StringIO(run(variables, "find", who, album, "--csv", "--threshold", "-1").stdout)))
    assert {row["path"] for row in rows} == set(map(str, album.rglob("*.jpg")))
    assert "skipped" in run(variables, "find", who, album, "--strict", code=1).stderr
    assert run(variables, "find", who, album, "--threshold", "1").stdout == ""


def test_a_folder_is_grouped_by_person(variables: dict[str, str], album: Path, tmp_path: Path) -> None:
    """Every person's pictures in a folder of its own; who is seen once is in none."""
    out = tmp_path / "people"
    (album / "broken.jpg").write_bytes(b"no picture")
    result = run(variables, "group", album, "--out", out, code=1)
    assert "1 of 14 pictures failed" in result.stderr
    assert "4 persons, 4 faces of nobody else" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == [f"person-00{number}" for number in (1, 2, 3, 4)]
    for folder in out.iterdir():
        pictures = [path for path in folder.rglob("*") if not path.is_dir()]
        assert len(pictures) == 3
        assert len({path.parent.name for path in pictures}) == 1
        assert all(path.is_symlink() and path.read_bytes() for path in pictures)
    assert re.search(r"person-001: 3 faces in 3 pictures, such as \S+/\d\.jpg", result.stdout)

    (album / "broken.jpg").unlink()
    rows = list(csv.DictReader(io.StringIO(run(variables, "group", album, "--csv").stdout)))
    people = defaultdict(set)
    for row in rows:
        people[row["person"]].add(Path(row["path"]).parent.name)
    assert {frozenset(found) for person, found in people.items() if person} == {frozenset({name}) for name in PEOPLE}
    assert "album" in people[""]
    assert "is there already" in run(variables, "group", album, "--out", out, code=1).stderr
    run(variables, "group", album, "--out", tmp_path / "copies", "--copy", "--min-faces", "1", "--threshold", "0.99")
    copies = [path for path in (tmp_path / "copies").rglob("*.jpg") if not path.is_symlink()]
    assert {path.read_bytes() for path in copies} == {path.read_bytes() for path in album.rglob("*.jpg")}


def test_a_killed_run_is_taken_up_where_it_was(variables: dict[str, str], shared_faces: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, picture in enumerate(sorted(shared_faces.rglob("*.jpg"))[:60]):
        shutil.copyfile(picture, photos / f"{number:02d}.jpg")
    faces = tmp_path / "faces.parquet"
    command = [str(Path(sys.executable).with_name("jetface")), "group", str(photos), "--faces", str(faces)]
    with subprocess.Popen(command, env=service_environ(variables), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("faces.parquet.parts/0*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    result = run(variables, "group", photos, "--faces", faces)
    (looked_at,) = re.findall(r"60 pictures, (\d+) looked at now", result.stderr)
    assert 0 < int(looked_at) <= 28
    assert "Parquet" in run(variables, "group", photos, "--faces", tmp_path / "faces.csv", code=2).stderr


def test_who_has_no_face_is_nobody_to_look_for(variables: dict[str, str], album: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert "broken.jpg" in run(variables, "find", tmp_path / "broken.jpg", album, code=1).stderr


def test_a_bridge_between_two_people_does_not_join_them() -> None:
    """Many faces of each, and one that is as like the one as the other: single links would make them one person."""
    rng = np.random.default_rng(0)
    first, second = np.eye(64, dtype=np.float32)[:2]
    noise = 0.05 * rng.normal(size=(41, 64)).astype(np.float32)
    vectors = np.concatenate([np.tile(first, (20, 1)), np.tile(second, (20, 1)), (first + second)[None] / 2]) + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = group_faces(vectors, 0.4)
    assert len(set(labels[:20].tolist())) == len(set(labels[20:40].tolist())) == 1
    assert labels[0] != labels[20]
    assert group_faces(vectors[:1], 0.4).tolist() == [0]
