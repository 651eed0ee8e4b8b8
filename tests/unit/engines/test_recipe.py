"""Which plan fits: every part of its recipe counts, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jetface.runtimes.engine_kit import EngineRecipe, Profile

PROFILE = Profile(least=(1, 640, 640, 3), usual=(2, 640, 640, 3), most=(4, 640, 640, 3))
FACTS = {"toolkit": "tensorrt", "version": "10.3.0", "gpu": "Orin", "compute_capability": "8.7"}
RECIPE = EngineRecipe(model="tiny", graph_sha256="abc", precision="fp16", profiles=(PROFILE,), toolkit=FACTS)


@pytest.mark.parametrize(
    "change",
    [
        {"graph_sha256": "def"},
        {"toolkit": {**FACTS, "version": "10.16.0"}},
        {"toolkit": {**FACTS, "compute_capability": "9.0"}},
        {"model": "other"},
        {"precision": "fp32"},
        {"profiles": (replace(PROFILE, usual=(1, 640, 640, 3)),)},
        {"profiles": (PROFILE, PROFILE)},
        {"workspace_bytes": 1},
        {"optimization_level": 5},
        {"dla_core": 0},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_whatever_changes_a_plan_changes_its_name(change: dict[str, Any]) -> None:
    assert replace(RECIPE, **change).file_name != RECIPE.file_name


def test_the_order_of_facts_changes_no_name() -> None:
    assert replace(RECIPE, toolkit=dict(reversed(FACTS.items()))).file_name == RECIPE.file_name


def test_a_name_says_model_and_precision() -> None:
    assert RECIPE.file_name.startswith("tiny-fp16-")
    assert RECIPE.file_name.endswith(".plan")


def test_a_misfit_says_what_differs() -> None:
    assert RECIPE.misfit(FACTS) is None
    assert RECIPE.misfit({**FACTS, "version": "11.0.0"}) == "built for version 10.3.0, here it is 11.0.0"
    assert RECIPE.misfit({**FACTS, "driver": "580"}) == "built for driver unknown, here it is 580"
