"""What the steps left in a folder: `STEP.json`, what was found, and `STEP.log`, what was said to people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

STEPS = (
    "run", "doctor", "build", "start", "answers", "engines", "speed", "bench", "plates", "soak", "drain", "stop",
    "restart",
)  # fmt: skip
"""In the order in which they are run."""


def read_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what each step found. One that left nothing readable has `not_run`: the last that it said.

    Raises:
        click.ClickException: No step left anything.
    """
    facts = {step: found for step in STEPS if (found := _read(folder, step)) is not None}
    if not facts:
        raise click.ClickException(f"{folder} has no facts: {', '.join(f'{step}.json' for step in STEPS)}")
    _derive(facts)
    return facts


def _read(folder: Path, step: str) -> dict[str, Any] | None:
    file, log = folder / f"{step}.json", folder / f"{step}.log"
    if not file.exists() and not log.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    except (OSError, ValueError):
        pass
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return {"not_run": (said[-1].removeprefix("Error: ") if said else "the step left nothing"), "failed": True}


def _derive(facts: dict[str, dict[str, Any]]) -> None:
    """Add what takes two steps to know."""
    free = ((facts.get("doctor", {}).get("machine") or {}).get("memory_bytes") or {}).get("free")
    soak = facts.get("soak")
    if soak and soak.get("available_min_bytes") and free:
        # What others gave back meanwhile cannot make it less than the process has.
        soak["taken_bytes"] = max(soak.get("rss_max_bytes") or 0.0, free - soak["available_min_bytes"])
    second = facts.get("restart", {})
    if second.get("build_seconds") is not None:
        second["engines_were_kept"] = bool(second["engines_serve"]) and not second["build_seconds"]
    for step in ("bench", "plates"):
        if cases := facts.get(step, {}).get("cases"):
            measured = {case["name"]: case["figures"] for case in cases if case["figures"]}
            best = max(measured.values(), key=lambda figures: figures["many"]["pictures_per_s"], default=None)
            facts[step]["measured"] = measured
            facts[step]["best_pictures_per_s"] = best and best["many"]["pictures_per_s"]
            facts[step]["best_p99_ms"] = best and best["one"]["p99_ms"]
            # Nothing answers in their place there.
            facts[step]["engines_serve"] = any(name.startswith("tensorrt") for name in measured)
