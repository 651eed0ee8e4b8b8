"""How many requests are served at once, and when one that is refused should come back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

import structlog

from app.errors import QueueFullError, ShuttingDownError

_log = structlog.get_logger("jetface.api")

TELL_EVERY_S = 10.0
"""Least time between two log lines about refusals."""

_NEWEST_WEIGHT = 0.1
"""Of the newest request in the running mean: the last twenty or so count."""


class Places:
    """The places in flight. Belongs to the event loop.

    What a place costs is measured: the seconds between two answers while the service is busy, estimated as a
    request's time divided by the requests that shared it. That times those in flight is when all of them are answered.
    """

    def __init__(self, limit: int, *, longest_wait_s: float = 30.0) -> None:
        """Create `limit` free places.

        Args:
            limit: Most requests served at once, >= 1.
            longest_wait_s: Never tell a caller to stay away longer.
        """
        self._limit = limit
        self._longest_wait_s = longest_wait_s
        self._share_s = 0.0
        self._num_refused = 0
        self._told_at = float("-inf")
        self._in_flight: set[Callable[[], object]] = set()
        self._idle = asyncio.Event()

    @property
    def limit(self) -> int:
        """Most requests served at once."""
        return self._limit

    @property
    def num_taken(self) -> int:
        """Requests being served."""
        return len(self._in_flight)

    @property
    def wait_s(self) -> float:
        """Seconds until what is in flight now is likely to be answered."""
        return min(self._share_s * len(self._in_flight), self._longest_wait_s)

    def check(self) -> None:
        """Refuse when no place is free.

        Raises:
            QueueFullError: With the seconds after which a place is likely.
        """
        if len(self._in_flight) >= self._limit:
            self._count_refusal()
            raise QueueFullError(
                "Too many requests are being served; come back later.",
                retry_after_s=max(self.wait_s, 1.0),
                wait_s=round(self.wait_s, 3),
                in_flight=len(self._in_flight),
            )

    def _count_refusal(self) -> None:
        """Tell of refusals, but not of each: an overloaded service has better things to do than to log."""
        self._num_refused += 1
        now = time.monotonic()
        if now - self._told_at >= TELL_EVERY_S:
            _log.warning("requests are refused: every place is taken", refused=self._num_refused, places=self._limit)
            self._num_refused, self._told_at = 0, now

    @contextlib.contextmanager
    def taken_by(self, give_up: Callable[[], object]) -> Iterator[None]:
        """Hold a place for a request while it is answered.

        Args:
            give_up: Makes the request fail with `ShuttingDownError`; no two requests' are equal.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._in_flight.add(give_up)
        self._idle.clear()
        try:
            yield
        finally:
            share_s = (loop.time() - started) / len(self._in_flight)
            self._share_s += (share_s - self._share_s) * (_NEWEST_WEIGHT if self._share_s else 1.0)
            self._in_flight.remove(give_up)
            if not self._in_flight:
                self._idle.set()

    async def abandon(self) -> None:
        """Give up what is in flight: each request fails with `ShuttingDownError`. Returns when all are answered."""
        for give_up in self._in_flight:
            give_up()
        if self._in_flight:
            await self._idle.wait()


def shutting_down() -> ShuttingDownError:
    """Return what a request that cannot be finished is answered with."""
    return ShuttingDownError("The service is shutting down.", retry_after_s=1)
