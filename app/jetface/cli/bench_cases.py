"""The cases of `jetface bench`: a backend and a precision, each measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from jetface.settings import variable_names

CASES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "onnxruntime-cpu": {"backend": "onnxruntime", "ort_providers": "cpu"},
        "openvino-f32": {"backend": "openvino", "openvino_precision": "f32"},
        "openvino-bf16": {"backend": "openvino", "openvino_precision": "bf16"},
        "onnxruntime-cuda": {"backend": "onnxruntime", "ort_providers": "cuda"},
        # Engines alone are measured: nobody is to answer in their place while they are built.
        "tensorrt-fp32": {"backend": "tensorrt", "force_fp16": "0", "serve_while_building": "0"},
        "tensorrt-fp16": {"backend": "tensorrt", "force_fp16": "1", "serve_while_building": "0"},
    }
)
"""Fields of `Settings` by case; everything else is as the environment says."""

_MARGIN_S = 120.0
"""For Python, imports and warm-up, beside what is measured and built."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case."""

    name: str
    figures: Mapping[str, Any] | None
    """As `measure_case` returns them; None when it could not be run."""
    reason: str = ""
    """Why not, one line."""

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return {"name": self.name, "figures": self.figures, "reason": self.reason or None}


def run_cases(
    names: Sequence[str], paths: Sequence[Path], *, callers: int, seconds: float, build_timeout_s: float
) -> list[Outcome]:
    """Measure cases one after the other, in the order given, with a bar on a terminal's stderr."""
    arguments = [
        *("--callers", str(callers), "--seconds", str(seconds), "--build-timeout", str(build_timeout_s)),
        *map(str, paths),
    ]
    timeout_s = 2 * seconds + build_timeout_s + _MARGIN_S
    with tqdm(names, unit="case", disable=None, leave=False) as bar:
        outcomes = []
        for name in bar:
            bar.set_description(name)
            outcomes.append(_run(name, arguments, timeout_s))
        return outcomes


def environ_of(case: str) -> dict[str, str]:
    """Return this process's environment with the settings of a case in place of others by any of their names."""
    fields = CASES[case]
    others = {alias for field in fields for alias in variable_names(field)}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in others}
    return {**kept, **{variable_names(field)[0]: value for field, value in fields.items()}}


def _run(case: str, arguments: Sequence[str], timeout_s: float) -> Outcome:
    command = [sys.executable, "-m", "jetface.cli", "bench", "--measure", case, *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - this program, on what its user named
            command, env=environ_of(case), capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome(case, None, f"not done within {timeout_s:.0f} s")
    if done.returncode < 0:
        return Outcome(case, None, f"the process was ended by signal {-done.returncode}")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Outcome(case, None, lines[-1].removeprefix("Error: "))
    return Outcome(case, json.loads(done.stdout.splitlines()[-1]))
