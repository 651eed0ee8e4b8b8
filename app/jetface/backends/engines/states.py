"""Where an engine is in its life: absent -> building -> checking -> serving, or rejected with a reason. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

EngineState = Literal["absent", "building", "checking", "serving", "rejected"]

ENGINE_STATES: tuple[EngineState, ...] = get_args(EngineState)

_LEAST_FRACTION = 0.05
"""Before that much is done, what is left cannot be told from the time it took."""

_LOG_EVERY_S = 10.0
_LOG_EVERY_FRACTION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What an operator can know of an engine now."""

    state: EngineState = "absent"
    progress: float | None = None
    """Of the build, 0 to 1; None unless it is built now."""
    eta_s: float | None = None
    """Seconds the build may still take; None where that cannot be told."""
    reason: str | None = None
    """Why it was rejected, or what it waits for, one sentence."""


def remaining_s(fraction: float, elapsed_s: float) -> float | None:
    """Estimate how long a build still takes, seconds; None while it is too early to tell.

    Args:
        fraction: Done, 0 to 1.
        elapsed_s: What that took.
    """
    return None if fraction < _LEAST_FRACTION else elapsed_s * (1 - fraction) / fraction


class Announcer:
    """Decides which steps of a build are worth a line in the log: one a tenth of the way, at most one in 10 seconds."""

    def __init__(self) -> None:
        self._told_fraction = -1.0
        self._told_at_s = float("-inf")

    def is_due(self, fraction: float, elapsed_s: float) -> bool:
        """Whether to tell of this step; if so, it counts as told."""
        is_far = fraction >= self._told_fraction + _LOG_EVERY_FRACTION
        if not is_far or elapsed_s < self._told_at_s + _LOG_EVERY_S:
            return False
        self._told_fraction, self._told_at_s = fraction, elapsed_s
        return True
