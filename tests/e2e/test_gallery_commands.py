"""`jetface gallery` as an operator uses it, on the faces of a few people."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from click.testing import CliRunner, Result

from jetface.cli.main import main
from jetface.gallery.records import ModelPin
from jetface.gallery.store import FILE_NAME, Store
from tests.support.server import running_server

PEOPLE = ("Al_Gore", "Ana_Guevara", "Adrien_Brody")


@pytest.fixture
def variables(shared_models: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> dict[str, str]:
    return {
        "MODEL_MIRROR": str(shared_models),
        "MODELS_DIR": str(tmp_path_factory.getbasetemp() / "gallery-models"),
        "MODEL_DOWNLOAD": "0",
        "BACKEND": "onnxruntime",
        "DET_MODEL": "det_500m",
        "REC_MODEL": "w600k_mbf_dequantized",
        "GALLERY_DIR": str(tmp_path / "gallery"),
        "GALLERY_KEEP_CROPS": "1",
    }


@pytest.fixture
def folder(shared_faces: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "people"
    for name in PEOPLE:
        (folder / name).mkdir(parents=True)
        for number in (1, 2):
            (folder / name / f"{number}.jpg").symlink_to(shared_faces / name / f"{number}.jpg")
    return folder


def run(variables: dict[str, str], *arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["gallery", *map(str, arguments)], env=variables)
    assert result.exit_code == code, result.output
    return result


def test_people_come_from_folders_and_go_through_every_file(
    variables: dict[str, str], folder: Path, shared_faces: Path, tmp_path: Path
) -> None:
    (folder / "Al_Gore" / "film.mov").write_bytes(b"no picture")
    first = run(variables, "enrol", folder, "--strict", code=1)
    assert "people: 3 persons, 6 faces; 6 are new" in first.output
    assert "skipped 1 file: 1 .mov" in first.output
    (folder / "Al_Gore" / "empty.jpg").write_bytes(b"")
    again = run(variables, "enrol", folder, code=1)
    assert "3 persons, 6 faces; 0 are new" in again.output
    assert "1 of 7 pictures refused" in again.output

    picture = shared_faces / "Ana_Guevara" / "4.jpg"
    assert "Ana_Guevara 0." in run(variables, "search", picture).output
    assert "Ana_Guevara 0." in run({**variables, "GALLERY_INDEX": "faiss"}, "search", picture).output
    (line,) = run(variables, "search", picture, "--json", "--top", "3", "--threshold", "-1").output.splitlines()
    matches = json.loads(line)["faces"][0]["matches"]
    assert matches[0]["person"] == "Ana_Guevara"
    assert len(matches) == 3

    assert "people: 3 persons, 6 faces of w600k_mbf_dequantized" in run(variables, "stats").output
    assert run(variables, "check").output == "whole\n"

    backup = tmp_path / "copy.sqlite3"
    run(variables, "backup", backup)
    assert "is there already" in run(variables, "backup", backup, code=1).output
    assert "--force" in run(variables, "restore", backup, code=1).output
    other = {**variables, "GALLERY_DIR": str(tmp_path / "other")}
    run(other, "restore", backup)
    assert "3 persons, 6 faces" in run(other, "stats").output

    exported = tmp_path / "export"
    assert run(variables, "export", exported).output == "6 faces\n"
    assert np.load(exported / "vectors.npy").shape == (6, 512)
    assert len(list((exported / "crops").iterdir())) == 6
    assert "cannot be written" in run(variables, "export", exported, code=1).output
    assert run(variables, "import", exported, "--collection", "copy").output == "copy: 6 faces\n"
    assert run(variables, "import", exported, "--collection", "copy").output == "copy: 6 faces\n"
    assert "copy: 3 persons, 6 faces" in run(variables, "stats").output

    # Another recognizer: the collection is refused until it is moved.
    changed = {**variables, "REC_MODEL": "mobilefacenet128"}
    assert "w600k_mbf_dequantized" in run(changed, "search", picture, code=1).output
    assert "people: 6 faces embedded anew" in run(changed, "reembed", "people").output
    assert "people: 3 persons, 6 faces of mobilefacenet128" in run(changed, "stats").output
    assert "Ana_Guevara 0." in run(changed, "search", picture).output

    # What has no crop would be gone.
    shutil.rmtree(exported / "crops")
    run(variables, "import", exported, "--collection", "bare")
    assert "6 of 6 faces have no crop" in run(changed, "reembed", "bare", code=1).output
    assert "bare: 3 persons, 6 faces of w600k_mbf_dequantized" in run(changed, "stats").output
    assert "6 faces had no crop and are gone" in run(changed, "reembed", "bare", "--lose-faces").output
    assert "bare: 3 persons, 0 faces of mobilefacenet128" in run(changed, "stats").output


def test_a_backup_that_cannot_be_used_is_told_before_anything_is_replaced(
    variables: dict[str, str], tmp_path: Path
) -> None:
    folder = Path(variables["GALLERY_DIR"])
    folder.mkdir()
    file = folder / FILE_NAME
    with Store(file, is_writer=True) as store:
        store.create_collection("people", ModelPin(name="m", sha256="ab", embedding_length=4), "{}")
        # As a copy of the folder has it after a kill: the last of it is in the log.
        copied = tmp_path / "copied"
        shutil.copytree(folder, copied)
        backup = tmp_path / "backup.sqlite3"
        run(variables, "backup", backup)
    assert backup.stat().st_mode & 0o077 == 0
    other = {**variables, "GALLERY_DIR": str(tmp_path / "other")}
    run(other, "restore", copied / FILE_NAME)
    assert "people: 0 persons, 0 faces" in run(other, "stats").output

    with closing(sqlite3.connect(backup)) as sql:
        sql.execute("PRAGMA user_version = 7")
    (tmp_path / "text").write_bytes(b"no database" * 100)
    (tmp_path / "empty").touch()
    for name, why in (
        ("backup.sqlite3", "version 7; this jetface reads 1"),
        ("text", "file is not a database"),
        ("empty", "version 0"),
    ):
        assert why in run(other, "restore", tmp_path / name, "--force", code=1).output
    assert "people: 0 persons, 0 faces" in run(other, "stats").output
    assert "No such file" in run(variables, "backup", tmp_path / "none" / "x", code=1).output


def test_a_dry_run_knows_what_ends_a_start(variables: dict[str, str], tmp_path: Path) -> None:
    """What is wrong with the gallery, too: `jetface doctor` and the start say the same."""
    file = tmp_path / "file"
    file.touch()
    for folder, why in ((file, "no folder that may be written"), (Path("/proc/none"), "may be written")):
        for command in (("serve", "--dry-run"), ("doctor",)):
            result = CliRunner().invoke(main, command, env={**variables, "GALLERY_DIR": str(folder), "PORT": "18579"})
            assert (result.exit_code, why in result.output) == (3, True), result.output
    database = {name: value for name, value in variables.items() if name != "GALLERY_DIR"}
    database["GALLERY_URL"] = "postgresql://ada:hunter2@127.0.0.1:1/none"
    result = CliRunner().invoke(main, ["serve", "--dry-run"], env={**database, "PORT": "18579"})
    assert result.exit_code == 3
    assert "database cannot be used" in result.output
    assert "hunter2" not in result.output


def test_long_paths_with_one_ending_are_two_faces(variables: dict[str, str], folder: Path) -> None:
    for name in PEOPLE[:2]:
        (folder / name / "1.jpg").rename(folder / name / f"{'a' * 240}.jpg")
    assert "people: 3 persons, 6 faces; 6 are new" in run(variables, "enrol", folder).output
    assert "0 are new" in run(variables, "enrol", folder).output


def test_a_running_service_does_the_same(
    variables: dict[str, str], folder: Path, shared_faces: Path, tmp_path: Path
) -> None:
    """While it has the gallery, no other process does: it is asked, and the files of the gallery can be looked at."""
    (folder / "Al_Gore" / "empty.jpg").write_bytes(b"")
    picture = shared_faces / "Ana_Guevara" / "4.jpg"
    with running_server(tmp_path, variables) as server:
        done = run(variables, "enrol", folder, "--url", server.url, code=1)
        assert "people: 3 persons, 6 faces; 6 are new" in done.output
        assert "1 of 7 pictures refused" in done.output
        assert "0 are new" in run(variables, "enrol", folder, "--url", server.url, code=1).output
        assert "Ana_Guevara 0." in run(variables, "search", picture, "--url", server.url).output
        (line,) = run(variables, "search", picture, "--json", "--url", server.url).output.splitlines()
        assert json.loads(line)["faces"][0]["matches"][0]["person"] == "Ana_Guevara"
        assert "Another process" in run(variables, "search", picture, code=1).output
        assert "people: 3 persons, 6 faces" in run(variables, "stats").output
        assert run(variables, "export", tmp_path / "export", "--url", server.url).output == "6 faces\n"
        for arguments in ((), ("--collection", "copy")):
            done = run(variables, "import", tmp_path / "export", *arguments, "--url", server.url)
            assert done.output.endswith(": 6 faces\n")
        assert "copy: 3 persons, 6 faces" in run(variables, "stats").output
        assert "No collection" in run(
            variables, "export", tmp_path / "none", "--collection", "none", "--url", server.url, code=1
        ).output  # fmt: skip
        assert "no whole export" in run(variables, "import", folder, "--url", server.url, code=1).output
        run(variables, "backup", tmp_path / "while.sqlite3")
        assert (
            "a process uses the gallery"
            in run(variables, "restore", tmp_path / "while.sqlite3", "--force", code=1).output
        )


def test_a_damaged_gallery_and_a_damaged_backup_are_told(
    variables: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    run(variables, "enrol", folder)
    file = Path(variables["GALLERY_DIR"]) / FILE_NAME
    whole = file.read_bytes()
    torn = bytearray(whole)
    torn[len(torn) // 2 : len(torn) // 2 + 4096] = b"\xaa" * 4096
    (tmp_path / "torn.sqlite3").write_bytes(torn)
    result = run(variables, "restore", tmp_path / "torn.sqlite3", "--force", code=1)
    assert "damaged" in result.output or "storage failed" in result.output
    assert file.read_bytes() == whole
    file.write_bytes(torn)
    assert run(variables, "check", code=1).output.count("\n") >= 1


def test_a_restore_that_finds_no_room_leaves_nothing_of_it(
    variables: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    run(variables, "enrol", folder)
    gallery, backup = Path(variables["GALLERY_DIR"]), tmp_path / "backup.sqlite3"
    run(variables, "backup", backup)
    before = sorted(path.name for path in gallery.iterdir())
    restore = 'ulimit -f 16; exec "$0" -m jetface.cli gallery restore --force "$1"'
    done = subprocess.run(
        ["/bin/sh", "-c", restore, sys.executable, backup],
        env={**os.environ, **variables}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr.startswith("Error: The gallery's")) == (1, True)
    assert sorted(path.name for path in gallery.iterdir()) == before
    assert run(variables, "check").output == "whole\n"


def test_what_is_missing_is_told(variables: dict[str, str], tmp_path: Path) -> None:
    for command in (("stats",), ("check",), ("backup", tmp_path / "x")):
        assert "no gallery in GALLERY_DIR" in run(variables, *command, code=1).output
    without = {name: value for name, value in variables.items() if name != "GALLERY_DIR"}
    assert "set GALLERY_DIR" in run(without, "stats", code=1).output
    (tmp_path / "empty").mkdir()
    assert "no pictures found" in run(variables, "enrol", tmp_path / "empty", code=1).output
    assert "no whole export" in run(variables, "import", tmp_path / "empty", code=1).output


def test_a_name_that_cannot_be_kept_costs_its_person_alone(variables: dict[str, str], folder: Path) -> None:
    (folder / "Al_Gore" / "1.jpg").rename(folder / "Al_Gore" / "new\nline.jpg")
    (folder / "Ana_Guevara").rename(folder / "Ana\nGuevara")
    for num_new in (4, 0):
        said = run(variables, "enrol", folder, code=1).output
        assert f"people: 2 persons, 4 faces; {num_new} are new" in said
        assert "refused: folder: no control characters." in said
        assert "2 of 6 pictures refused" in said


class CompreFace(BaseHTTPRequestHandler):
    """Two routes of it, over pictures in a folder; one was not kept."""

    folder: Path

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.headers["x-api-key"] != "key":
            self.send_response(401)
            self.end_headers()
            return
        if url.path == "/api/v1/recognition/faces":
            page = int(parse_qs(url.query)["page"][0])
            faces = [{"image_id": f"{name}-1", "subject": name} for name in (*PEOPLE, "Gone", "a/b")]
            shown = {"faces": faces[2 * page : 2 * page + 2], "page_number": page, "total_pages": 3}
            body = json.dumps(shown).encode()
        else:
            name = url.path.split("/")[-2].removesuffix("-1")
            body = b"" if name == "Gone" else (self.folder / name / "1.jpg").read_bytes()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        del format, args


def test_people_come_from_a_running_compreface(variables: dict[str, str], folder: Path) -> None:
    handler = type("Handler", (CompreFace,), {"folder": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        done = run(variables, "import-compreface", url, "--api-key", "key", code=1)
        assert "compreface: 3 persons, 3 faces; 3 are new" in done.output
        assert "Gone, Gone-1: refused: its picture was not kept there" in done.output
        assert "'a/b', 'a/b-1': refused: image_id: no slash" in done.output
        assert "3 faces; 0 are new" in run(variables, "import-compreface", url, "--api-key", "key", code=1).output
        refused = run(variables, "import-compreface", url, "--api-key", "wrong", code=1)
        assert "cannot be read" in refused.output
        server.shutdown()
    gone = run(variables, "import-compreface", url, "--api-key", "key", code=1)
    assert "cannot be read" in gone.output
