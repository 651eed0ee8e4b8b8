"""Importing modules does nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.shared import REPOSITORY
from tests.unit.test_layers import MODULES


def test_importing_starts_nothing(tmp_path: Path) -> None:
    """Every module of `jetface` in one process: no thread, no output, no file written, whatever the settings are."""
    program = (
        "import importlib, sys, threading\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *MODULES],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "PORT": "not a port", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
