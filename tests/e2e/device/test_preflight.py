"""Packages are imported in a process apart, which may crash or hang."""

from __future__ import annotations

from jetface.device.checks import (
    import_apart,
)


def test_a_crash_in_the_process_apart_is_told() -> None:
    outcome = import_apart("os; os.abort()")
    assert outcome.exit_code < 0
    assert "SIGABRT" in outcome.reason


def test_an_error_in_the_process_apart_is_told() -> None:
    assert import_apart("no_such_module").reason == "ModuleNotFoundError: No module named 'no_such_module'"


def test_an_import_that_hangs_is_given_up() -> None:
    assert "did not end" in import_apart("time; time.sleep(600)", timeout_s=0.5).reason
