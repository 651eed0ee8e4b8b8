"""Entries that cannot be read end no command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from jetface.cli.main import main
from tests.support.weights import add_recognizer


class TestUnreadableEntries:
    """A file in MODELS_DIR that is no entry is a warning that names it, and an error for who asks for it."""

    @pytest.fixture(autouse=True)
    def broken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        add_recognizer(tmp_path, b"the weights")
        (tmp_path / "broken.toml").write_text('name = "broken"')
        monkeypatch.setenv("MODELS_DIR", str(tmp_path))

    @pytest.mark.parametrize("arguments", [["models", "list"], ["models", "verify", "mine"], ["doctor"]])
    def test_no_command_ends_of_it(self, arguments: list[str]) -> None:
        result = CliRunner().invoke(main, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "broken.toml: task: Field required" in result.stderr
        assert "mine" in result.stdout

    def test_who_names_it_is_told_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for arguments in (["models", "verify", "broken"], ["models", "convert", "broken"]):
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 2
            assert "broken.toml: task" in result.stderr.splitlines()[-1]
        monkeypatch.setenv("REC_MODEL", "broken")
        result = CliRunner().invoke(main, ["extract", str(Path(__file__))])
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1].startswith("Error: broken.toml: task")

    def test_the_doctor_finds_it(self) -> None:
        found = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
        (finding,) = (each for each in found["findings"] if each["name"] == "registry-entry")
        assert "broken.toml" in finding["what"]
