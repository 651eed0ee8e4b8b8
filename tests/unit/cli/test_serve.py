"""`jetface serve` and the arguments that `entrypoint.sh` takes from it."""

from __future__ import annotations

import pytest
import uvicorn
from click.testing import CliRunner

from app.cli.main import main
from app.cli.serve import APPLICATION, as_arguments, uvicorn_options
from app.settings import Settings


def test_dry_run_prints_arguments_uvicorn_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One argument a line, so that no value is split or expanded by the shell; uvicorn's own parser takes them."""
    monkeypatch.setenv("PORT", "1234")
    monkeypatch.setenv("HOST", "::1")
    result = CliRunner().invoke(main, ["serve", "--dry-run"])
    assert result.exit_code == 0
    arguments = result.stdout.splitlines()
    context = uvicorn.main.make_context("uvicorn", [*arguments, APPLICATION])
    assert context.params["host"] == "::1"
    assert context.params["port"] == 1234
    assert context.params["workers"] == 1
    assert context.params["access_log"] is False
    assert context.params["reload"] is False


def test_both_ways_to_start_agree() -> None:
    """Each option of `uvicorn.run` reaches the program under its own name with an equal value."""
    options = uvicorn_options(Settings())
    context = uvicorn.main.make_context("uvicorn", [*as_arguments(options), APPLICATION])
    assert {name: context.params[name] for name in options} == options


def test_dry_run_refuses_bad_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on stdout, so that the entrypoint cannot start with half of the arguments."""
    monkeypatch.setenv("LOG_FORMAT", "xml")
    result = CliRunner().invoke(main, ["serve", "--dry-run"])
    assert result.exit_code == 2
    assert result.stdout == ""
