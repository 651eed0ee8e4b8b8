"""How much is tried: little in CI, twenty times as much by `FUZZ=20`, a tenth by `FUZZ=0.1` in `make test-quick`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_EFFORT = float(os.environ.get("FUZZ", "1"))


def effort(count: int) -> int:
    """Return `count` times the effort, 1 at least."""
    return max(1, round(count * _EFFORT))


def fuzz(num_examples: int) -> settings:
    """Return what decorates a test that tries `num_examples` times the effort, other ones in every run."""
    return settings(
        max_examples=effort(num_examples),
        deadline=None,
        # An example that failed once belongs into a test of its own.
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
