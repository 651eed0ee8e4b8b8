"""`jetface models`: the registry, from a terminal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner, Result

from jetface.cli.main import main
from jetface.registry import default_registry_dir, read_registry
from tests.support.drawn import PEOPLE, draw_portrait
from tests.support.file_server import Answer, FileServer, file_server

CONTENT = b"the weights"
ENTRY_DIGEST = hashlib.sha256(CONTENT).hexdigest()
ENTRY = f"""
name = "mine"
task = "recognition"
family = "arcface"
license = "Mine"
source = "me"
sha256 = "{ENTRY_DIGEST}"
embedding_length = 512
input = {{height_px = 112, width_px = 112, mean = 127.5, std = 127.5}}
"""


def run(*arguments: str) -> Result:
    """Run `jetface models`."""
    return CliRunner().invoke(main, ["models", *arguments])


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A MODELS_DIR with an entry of the user's own, whose weights are here."""
    (tmp_path / "mine.toml").write_text(ENTRY)
    (tmp_path / "mine.onnx").write_bytes(CONTENT)
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("models_dir")
class TestList:
    """Every entry, the user's too."""

    def test_shows_licence_and_place(self) -> None:
        """One line an entry: task, whether the weights are here, licence."""
        table, _, _packs = run("list").stdout.partition("\n\n")
        lines = {line.split()[0]: line for line in table.splitlines()}
        assert lines.keys() == {*read_registry([default_registry_dir()]), "mine"}
        assert lines["mine"].split()[1:] == ["recognition", "here", "Mine"]
        assert lines["det_500m"].split(maxsplit=3)[1:3] == ["detection", "download"]
        assert "on-commercial" in lines["det_500m"]
        assert lines["mobilefacenet128"].split()[2] == "missing"

    def test_names_the_packs(self) -> None:
        """With their models, so that a pack's name is all a person needs."""
        _, _, packs = run("list").stdout.partition("Packs, for `jetface models pull`:\n")
        assert [line.split()[0] for line in packs.splitlines()] == [
            *("antelopev2", "buffalo_l", "buffalo_m", "buffalo_sc", "opencv")
        ]
        assert packs.splitlines()[0].split(maxsplit=1)[1] == "glintr100, scrfd_10g_bnkps"


class TestVerify:
    """Checksums of what is here."""

    def test_names_where_each_file_is(self, models_dir: Path) -> None:
        """Without names: all that are here."""
        result = run("verify")
        assert result.exit_code == 0
        assert f"mine: {models_dir / 'mine.onnx'}" in result.stdout.splitlines()

    def test_a_changed_file_fails(self, models_dir: Path) -> None:
        """The others are checked all the same."""
        (models_dir / "mine.onnx").write_bytes(b"changed")
        result = run("verify", "mine", "glintr100")
        assert result.exit_code == 1
        assert "checksum" in result.stderr
        assert "glintr100.onnx" in result.stderr
        assert result.stderr.endswith("Error: 2 of 2 models cannot be used\n")

    @pytest.mark.usefixtures("models_dir")
    def test_an_unknown_name_is_a_usage_error(self) -> None:
        """Nothing is checked, and the way to the names is told."""
        result = run("verify", "nope")
        assert result.exit_code == 2
        assert "neither model nor pack: nope; see `jetface models list`" in result.stderr


class TestPull:
    """Weights before they are needed."""

    def test_what_is_here_stays(self, models_dir: Path) -> None:
        """No network is asked for it."""
        assert run("pull", "mine").stdout == f"mine: {models_dir / 'mine.onnx'}\n"

    def test_from_a_mirror(self, models_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A folder of the air-gapped is a place like any other, checksum included."""
        mirror = tmp_path / "mirror"
        mirror.mkdir()
        (models_dir / "mine.onnx").rename(mirror / "mine.onnx")
        monkeypatch.setenv("MODEL_MIRROR", str(mirror))
        assert run("pull", "mine").stdout == f"mine: {mirror / 'mine.onnx'}\n"

    def test_a_pack_is_its_models(self, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One command for all that belongs together, from a mirror as from anywhere."""
        contents = {"one": b"one", "two": b"two"}
        for name, content in contents.items():
            digest = hashlib.sha256(content).hexdigest()
            entry = ENTRY.replace("mine", name).replace(ENTRY_DIGEST, digest)
            (models_dir / f"{name}.toml").write_text(f'packs = ["both"]\n{entry}')
        with file_server({f"/{name}.onnx": Answer(content) for name, content in contents.items()}) as publisher:
            monkeypatch.setenv("MODEL_MIRROR", publisher.url)
            result = run("pull", "both", "one")
        assert result.stdout.splitlines() == [f"{name}: {models_dir / f'{name}.onnx'}" for name in contents]
        assert run("verify", "both").exit_code == 0

    def test_a_log_is_for_who_asks(self, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without LOG_LEVEL the error is told once, in words; with it, the log tells its part too."""
        (models_dir / "mine.onnx").unlink()
        assert "weights are missing" not in run("verify", "mine").stderr
        monkeypatch.setenv("LOG_LEVEL", "ERROR")
        assert "weights are missing" in run("verify", "mine").stderr


@pytest.fixture
def publisher(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server that has `mine`, whose licence forbids commercial use; it is nowhere else."""
    (models_dir / "mine.toml").write_text(f"non_commercial = true\n{ENTRY}")
    (models_dir / "mine.onnx").unlink()
    with file_server({"/mine.onnx": Answer(CONTENT)}) as server:
        monkeypatch.setenv("MODEL_MIRROR", server.url)
        yield server


class TestLicenses:
    """Licences that forbid commercial use are accepted once, in so many words."""

    def test_nothing_is_fetched_before(self, models_dir: Path, publisher: FileServer) -> None:
        """The licence is shown, and what to do."""
        result = run("pull", "mine")
        assert result.exit_code == 1
        assert result.stderr.splitlines()[0] == "mine: Mine"
        assert "run the command again with --accept-license if you accept them for mine" in result.stderr
        assert publisher.requests == []
        assert {path.name for path in models_dir.iterdir()} == {"mine.toml"}

    def test_once_is_enough(self, models_dir: Path, publisher: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Recorded beside the weights: who, when, which words, for what. `list` shows it."""
        monkeypatch.setenv("LOGNAME", "ada")
        assert run("pull", "mine", "--accept-license").exit_code == 0
        (line,) = (models_dir / "accepted_licenses.jsonl").read_text().splitlines()
        entry = json.loads(line)
        assert entry.pop("accepted_at").endswith("+00:00")
        assert entry == {"accepted_by": "ada", "license": "Mine", "models": ["mine"], "sources": ["me"]}
        (models_dir / "mine.onnx").unlink()
        assert run("pull", "mine").exit_code == 0
        assert publisher.requests == ["/mine.onnx"] * 2
        assert "mine  " in run("list").stdout
        assert next(row for row in run("list").stdout.splitlines() if row.startswith("mine ")).endswith("[accepted]")

    def test_what_is_here_is_not_asked_about(self, models_dir: Path, publisher: FileServer) -> None:
        """Whoever put it there had their reasons."""
        (models_dir / "mine.onnx").write_bytes(CONTENT)
        assert run("pull", "mine").exit_code == 0
        assert publisher.requests == []

    def test_free_licences_are_shown_and_not_asked_about(self, models_dir: Path, publisher: FileServer) -> None:
        """The name of the licence, on stderr, and on with it."""
        (models_dir / "mine.toml").write_text(ENTRY)
        result = run("pull", "mine")
        assert result.exit_code == 0
        assert result.stderr.splitlines()[0] == "mine: Mine"
        assert publisher.requests == ["/mine.onnx"]
        assert not (models_dir / "accepted_licenses.jsonl").exists()

    def test_a_folder_that_cannot_be_written_is_said(self, models_dir: Path, publisher: FileServer) -> None:
        """No record, no download."""
        (models_dir / "accepted_licenses.jsonl").mkdir()
        result = run("pull", "mine", "--accept-license")
        assert result.exit_code == 1
        assert "accepted_licenses.jsonl cannot be written: Is a directory." in result.stderr
        assert publisher.requests == []


class TestAirGap:
    """`pull --to DIR` here, `MODEL_MIRROR=DIR` there."""

    def test_downloads_go_into_the_folder_only(self, models_dir: Path, publisher: FileServer, tmp_path: Path) -> None:
        """With the record of the licence; MODELS_DIR gets nothing but its own record."""
        stick = tmp_path / "stick"
        result = run("pull", "mine", "--to", str(stick), "--accept-license")
        assert result.stdout == f"mine: {stick / 'mine.onnx'}\n"
        assert publisher.requests == ["/mine.onnx"]
        visible = {path.name for path in stick.iterdir() if not path.name.startswith(".")}
        assert visible == {"mine.onnx", "accepted_licenses.jsonl"}
        assert not (models_dir / "mine.onnx").exists()

    def test_what_is_here_is_copied(self, models_dir: Path, publisher: FileServer, tmp_path: Path) -> None:
        """Without the network; a copy is asked about, as it leaves."""
        stick = tmp_path / "stick"
        (models_dir / "mine.onnx").write_bytes(CONTENT)
        assert run("pull", "mine", "--to", str(stick)).exit_code == 1
        assert not stick.exists()
        assert run("pull", "mine", "--to", str(stick), "--accept-license").exit_code == 0
        assert (stick / "mine.onnx").read_bytes() == CONTENT
        assert publisher.requests == []

    def test_a_full_or_forbidden_folder_is_said(self, models_dir: Path, tmp_path: Path) -> None:
        """In one line, with the path."""
        (tmp_path / "file").write_text("")
        result = run("pull", "mine", "--to", str(tmp_path / "file" / "stick"))
        assert result.exit_code == 1
        assert "cannot be written: " in result.stderr
        assert (models_dir / "mine.onnx").exists()

    def test_another_file_in_the_folder_stays(self, models_dir: Path, tmp_path: Path) -> None:
        """Never overwritten, and said to be wrong."""
        stick = tmp_path / "stick"
        stick.mkdir()
        (stick / "mine.onnx").write_bytes(b"another")
        result = run("pull", "mine", "--to", str(stick))
        assert result.exit_code == 1
        assert "another checksum" in result.stderr
        assert (stick / "mine.onnx").read_bytes() == b"another"
        assert (models_dir / "mine.onnx").read_bytes() == CONTENT

    def test_a_machine_without_network_serves_from_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """End to end: a publisher, a pull, a folder, and faces found where nothing may be downloaded."""
        published = default_registry_dir() / "starter_det.onnx"
        entry = (default_registry_dir() / "starter_det.toml").read_text().replace("starter_det", "published")
        here, stick, there = (tmp_path / name for name in ("here", "stick", "there"))
        for folder in (here, there):
            folder.mkdir()
            (folder / "published.toml").write_text(entry)
        with file_server({"/published.onnx": Answer(published.read_bytes())}) as publisher:
            monkeypatch.setenv("MODELS_DIR", str(here))
            monkeypatch.setenv("MODEL_MIRROR", publisher.url)
            assert run("pull", "published", "--to", str(stick), "--accept-license").exit_code == 0
        settings = {"MODELS_DIR": there, "MODEL_MIRROR": stick, "MODEL_DOWNLOAD": "0", "DET_MODEL": "published"}
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))
        assert run("verify", "published").stdout == f"published: {stick / 'published.onnx'}\n"
        picture = tmp_path / "portrait.png"
        cv2.imwrite(str(picture), draw_portrait(PEOPLE[0]))
        found = CliRunner().invoke(main, ["extract", str(picture), "--json", "--detect-only"], catch_exceptions=False)
        assert found.exit_code == 0
        assert len(json.loads(found.stdout)["faces"]) == 1
        assert not list(there.glob("*.onnx"))
