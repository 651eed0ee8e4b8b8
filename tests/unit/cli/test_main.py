"""The `jetface` command as a whole."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from jetface.cli.main import COMMANDS, main


def test_version_is_the_distribution_s() -> None:
    """One number, from the installed package."""
    assert CliRunner().invoke(main, ["--version"]).stdout == f"jetface, version {version('jetface')}\n"


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
