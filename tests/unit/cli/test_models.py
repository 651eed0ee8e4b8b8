"""`jetface models`: the registry, from a terminal."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli.main import main
from app.specs import default_registry_dir, read_registry

CONTENT = b"the weights"
ENTRY = f"""
name = "mine"
task = "recognition"
family = "arcface"
license = "Mine"
source = "me"
sha256 = "{hashlib.sha256(CONTENT).hexdigest()}"
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
        lines = {line.split()[0]: line for line in run("list").stdout.splitlines()}
        assert lines.keys() == {*read_registry([default_registry_dir()]), "mine"}
        assert lines["mine"].split()[1:] == ["recognition", "here", "Mine"]
        assert lines["det_500m"].split(maxsplit=3)[1:3] == ["detection", "download"]
        assert "on-commercial" in lines["det_500m"]
        assert lines["mobilefacenet128"].split()[2] == "missing"


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
        assert "not in the registry: nope; see `jetface models list`" in result.stderr


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

    def test_a_log_is_for_who_asks(self, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without LOG_LEVEL the error is told once, in words; with it, the log tells its part too."""
        (models_dir / "mine.onnx").unlink()
        assert "weights are missing" not in run("verify", "mine").stderr
        monkeypatch.setenv("LOG_LEVEL", "ERROR")
        assert "weights are missing" in run("verify", "mine").stderr
