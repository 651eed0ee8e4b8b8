"""Which plan fits: every part of its key counts, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jetface.engines.plan import EngineKey, engine_key, misfit
from jetface.runtimes.engine_kit import EngineRequest, Profile

PROFILE = Profile(least=(1, 640, 640, 3), usual=(2, 640, 640, 3), most=(4, 640, 640, 3))
REQUEST = EngineRequest(model="tiny", graph=Path("/a/tiny.onnx"), precision="fp16", profiles=(PROFILE,))
FACTS = {"toolkit": "tensorrt", "version": "10.3.0", "gpu": "Orin", "compute_capability": "8.7"}


def key_of(request: EngineRequest = REQUEST, *, graph_sha256: str = "abc", facts: dict[str, str] = FACTS) -> EngineKey:
    return engine_key(request, graph_sha256=graph_sha256, facts=facts)


@pytest.mark.parametrize(
    "change",
    [
        {"graph_sha256": "def"},
        {"facts": {**FACTS, "version": "10.16.0"}},
        {"facts": {**FACTS, "compute_capability": "9.0"}},
        {"request": replace(REQUEST, model="other")},
        {"request": replace(REQUEST, precision="fp32")},
        {"request": replace(REQUEST, profiles=(replace(PROFILE, usual=(1, 640, 640, 3)),))},
        {"request": replace(REQUEST, profiles=(PROFILE, PROFILE))},
        {"request": replace(REQUEST, workspace_bytes=1)},
        {"request": replace(REQUEST, optimization_level=5)},
        {"request": replace(REQUEST, dla_core=0)},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_whatever_changes_a_plan_changes_its_key_and_name(change: dict[str, Any]) -> None:
    other = key_of(**{"request": REQUEST, **change})
    assert other != key_of()
    assert other.file_name != key_of().file_name


def test_what_changes_no_plan_changes_no_key() -> None:
    moved = replace(REQUEST, graph=Path("/b/tiny.onnx"), timing_cache=Path("/b/timings"))
    assert key_of(moved) == key_of()
    assert key_of(facts=dict(reversed(FACTS.items()))).file_name == key_of().file_name


def test_a_name_says_model_and_precision() -> None:
    assert key_of().file_name.startswith("tiny-fp16-")
    assert key_of().file_name.endswith(".plan")


def test_a_misfit_says_what_differs() -> None:
    assert misfit(key_of(), FACTS) is None
    assert misfit(key_of(), {**FACTS, "version": "11.0.0"}) == "built for version 10.3.0, here it is 11.0.0"
    assert misfit(key_of(), {**FACTS, "driver": "580"}) == "built for driver unknown, here it is 580"
