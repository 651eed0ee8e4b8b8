"""How much is tried: little in CI, as much as one likes by `FUZZ=20`, which tries twenty times as much."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

EFFORT = int(os.environ.get("FUZZ", "1"))


def fuzz(num_examples: int) -> settings:
    """Return what decorates a test that tries `num_examples` times the effort, other ones in every run."""
    return settings(
        max_examples=num_examples * EFFORT,
        deadline=None,
        # An example that failed once belongs into a test of its own.
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
