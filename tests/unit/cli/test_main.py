"""The `jetface` command as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from jetface import __commit__, __version__
from jetface.cli.main import COMMANDS, main
from tests.support.shared import REPOSITORY


def test_the_version_is_told_with_its_commit() -> None:
    expected = f"jetface, version {__version__} (commit {__commit__})\n"
    assert CliRunner().invoke(main, ["--version"]).stdout == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    """`-h` and `--help` both work, and say more than the usage."""
    for flag in ("-h", "--help"):
        result = CliRunner().invoke(main, [command, flag])
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()) > 3


def test_a_registry_file_that_cannot_be_read_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The operator's own TOML is named, and what is wrong with it; the command goes on without it."""
    (tmp_path / "mine.toml").write_text('name = "mine"\n')
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    result = CliRunner().invoke(main, ["models", "list"])
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: mine.toml: ")
    assert result.stderr.count("\n") == 1


def test_every_command_is_on_the_page_of_commands() -> None:
    page = (REPOSITORY / "docs/cli.md").read_text(encoding="utf-8")
    assert [command for command in COMMANDS if f"| `jetface {command}" not in page] == []
