"""Recipes of engines, made without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jetface.runtimes.engine_kit import EngineRecipe, Profile


def recipe_of(profiles: Sequence[Profile], **others: Any) -> EngineRecipe:
    """Return a recipe in FP32 for a model `m`, but for what is said otherwise."""
    return EngineRecipe(
        **{"model": "m", "graph_sha256": "", "precision": "fp32", "toolkit": {}, "profiles": tuple(profiles), **others}
    )
