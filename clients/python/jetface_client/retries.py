"""When to try again, and after how long: arithmetic only."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jetface_client.errors import BusyError, JetfaceError, UnreachableError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a call is sent. It can be repeated safely: what changes the gallery carries ids, and is done once."""

    num_attempts: int = 5
    """Most times a call is sent; 1: never again."""
    first_delay_s: float = 0.2
    """Mean pause before the second attempt; it doubles with each one after, up to `max_delay_s`."""
    max_delay_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.num_attempts < 1 or self.first_delay_s < 0 or self.max_delay_s < 0:
            raise ValueError("num_attempts is at least 1, delays are not negative")

    def delay_s(
        self, num_failed: int, error: JetfaceError, *, random_fraction: Callable[[], float] = random.random
    ) -> float | None:
        """Return the pause before the next attempt.

        Args:
            num_failed: Attempts so far, all failed; at least 1.
            error: Of the last one.
            random_fraction: Draws from [0, 1): many clients that were refused together must not return together.

        Returns:
            Seconds; at least what `Retry-After` asked for. None: give up, `error` is the result.
        """
        if num_failed >= self.num_attempts or not isinstance(error, BusyError | UnreachableError):
            return None
        backoff_s = min(self.max_delay_s, self.first_delay_s * 2.0 ** min(num_failed - 1, 64))
        jittered_s = backoff_s * (0.5 + random_fraction())
        asked_s = error.retry_after_s if isinstance(error, BusyError) else None
        return jittered_s if asked_s is None else asked_s + jittered_s * 0.1


def retry_after_s(value: Any) -> float | None:
    """Read a `Retry-After` header in seconds; None when it is missing, a date or nonsense."""
    text = str(value or "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None
