"""`jetface engine check`, in a process of its own: engines, and what may crash with them, stay there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import click

COMMAND = (sys.executable, "-m", "jetface.cli", "engine", "check")

_LIMIT_S = 1800.0


def check_engines(command: Sequence[str] = COMMAND, limit_s: float = _LIMIT_S) -> dict[str, Any]:
    """Return whether the engines that are kept answer as ONNX Runtime does, and what was measured.

    Args:
        command: What compares them.
        limit_s: Longest it may take.

    Raises:
        click.ClickException: Nothing was compared: there is no TensorRT here, or no engine.
    """
    try:
        done = subprocess.run(  # noqa: S603 - this program
            command, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as cause:
        raise click.ClickException(f"jetface engine check was not done within {limit_s:.0f} s") from cause
    verdicts = done.stdout.strip().splitlines()
    if not verdicts:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise click.ClickException(lines[-1].removeprefix("Error: "))
    return {"passed": done.returncode == 0, "verdicts": verdicts, "faults": done.stderr.strip().splitlines()}
