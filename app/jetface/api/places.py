"""How many requests are served and received at once, and when one that is refused should come back."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import AsyncIterator, Iterator
from operator import itemgetter
from typing import Protocol

import structlog

from jetface.errors import QueueFullError, ServiceError, ShuttingDownError
from jetface.logs import Seldom

_log = structlog.get_logger("jetface.api")

_NEWEST_WEIGHT = 0.1
"""Of the newest request in the running mean: the last twenty or so count."""


_SLOWEST_KEPT = 32
"""Looking through a thousand that are received takes half a millisecond: not for each that comes."""

_time_of = itemgetter(0)


class Claimant(Protocol):
    """A request that is received or served; no two are equal."""

    @property
    def stalls_at(self) -> float:
        """`loop.time()` until which its client may go on as slowly as now; infinite while nothing is waited for."""
        ...

    @property
    def held_bytes(self) -> int:
        """What its body has of the budget for bytes."""
        ...

    def end(self, cause: ServiceError) -> None:
        """Make it fail."""
        ...


class Places:
    """The places in flight, and the larger room before them where bodies arrive. Belongs to the event loop.

    A request takes a place when its body is there: however slowly others send, a place is free for one who has sent.
    The room is bounded, too: when it is full, whose time is up first makes way, the slowest.

    What a place costs is measured: the seconds between two answers while the service is busy, estimated as a
    request's time divided by the requests that shared it. That times those in flight is when all of them are answered.
    """

    def __init__(
        self, limit: int, *, most_received: int = 1024, most_aside_bytes: int = 2**29, longest_wait_s: float = 30.0
    ) -> None:
        """Create `limit` free places.

        Args:
            limit: Most requests served at once, >= 1.
            most_received: Most requests whose bodies arrive at once, >= 1.
            most_aside_bytes: What the bodies of several that are aside may have of their budget.
            longest_wait_s: Never tell a caller to stay away longer.
        """
        self._limit = limit
        self._most_received = most_received
        self._most_aside_bytes = most_aside_bytes
        self._longest_wait_s = longest_wait_s
        self._share_s = 0.0
        self._seldom = Seldom()
        self._received: set[Claimant] = set()
        self._slowest: list[tuple[float, Claimant]] = []
        self._in_flight: dict[Claimant, float] = {}
        self._aside: set[Claimant] = set()
        self._returning: deque[tuple[Claimant, asyncio.Future[None]]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def limit(self) -> int:
        """Most requests served at once."""
        return self._limit

    @property
    def num_taken(self) -> int:
        """Requests being served."""
        return len(self._in_flight)

    @property
    def num_received(self) -> int:
        """Requests whose bodies arrive."""
        return len(self._received)

    @property
    def num_aside(self) -> int:
        """Requests that have let go of their place until a model is loaded."""
        return len(self._aside)

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
        if num_refused := self._seldom.count():
            _log.warning("requests are refused: every place is taken", refused=num_refused, places=self._limit)

    @contextlib.contextmanager
    def held_by(self, claimant: Claimant) -> Iterator[None]:
        """Hold room for a request while its body arrives, and its place from `take` on.

        Raises:
            QueueFullError: There is no room, and nobody who makes any.
        """
        if len(self._received) >= self._most_received:
            self._make_room()
        self._received.add(claimant)
        self._idle.clear()
        try:
            yield
        finally:
            self._received.discard(claimant)
            taken_at = self._in_flight.get(claimant)
            if taken_at is not None:
                share_s = (asyncio.get_running_loop().time() - taken_at) / len(self._in_flight)
                self._share_s += (share_s - self._share_s) * (_NEWEST_WEIGHT if self._share_s else 1.0)
                self._free_place_of(claimant)
            self._aside.discard(claimant)
            if not self._in_flight and not self._received and not self._aside:
                self._idle.set()

    def take(self, claimant: Claimant) -> None:
        """Give a place to a request whose body is there, unless it has one.

        Raises:
            QueueFullError: As `check`.
        """
        if claimant not in self._in_flight:
            self.check()
            self._received.discard(claimant)
            self._in_flight[claimant] = asyncio.get_running_loop().time()

    @contextlib.asynccontextmanager
    async def step_aside(self, claimant: Claimant, refusal: ServiceError) -> AsyncIterator[None]:
        """Let go of a place inside, and wait for one in the end: first out, first back.

        As many requests may be aside as there are places, if their bodies leave others enough of the budget. One that
        is aside already, or has no place, goes on as it is.

        Args:
            claimant: Who has the place.
            refusal: Raised when as many are aside as may be.
        """
        if claimant not in self._in_flight:
            yield
            return
        num_bytes = claimant.held_bytes + sum([each.held_bytes for each in self._aside])
        if len(self._aside) >= self._limit or (self._aside and num_bytes > self._most_aside_bytes):
            raise refusal
        self._aside.add(claimant)
        self._free_place_of(claimant)
        yield  # where this raises, its request ends and needs no place
        if len(self._in_flight) < self._limit:
            self._in_flight[claimant] = asyncio.get_running_loop().time()
        else:
            turn = asyncio.get_running_loop().create_future()
            self._returning.append((claimant, turn))
            await turn
        self._aside.discard(claimant)

    def _free_place_of(self, claimant: Claimant) -> None:
        del self._in_flight[claimant]
        while self._returning and len(self._in_flight) < self._limit:
            returned, turn = self._returning.popleft()
            if not turn.done():  # else its request ended while it waited
                self._in_flight[returned] = asyncio.get_running_loop().time()
                turn.set_result(None)

    def _make_room(self) -> None:
        self._count_refusal()
        slowest = self._still_slowest() or self._look_for_slowest()
        if slowest is None:
            raise _too_many_received()
        self._received.remove(slowest)
        slowest.end(_too_many_received())

    def _still_slowest(self) -> Claimant | None:
        """Return the slowest of those found last of which nothing has come since; None: there is none left.

        A client's time is only ever put off, so they are still the slowest of all.
        """
        while self._slowest:
            stalls_at, claimant = self._slowest.pop()
            if claimant in self._received and claimant.stalls_at == stalls_at:
                return claimant
        return None

    def _look_for_slowest(self) -> Claimant | None:
        """Look through all, and keep some for those who come next; None: no client is waited for."""
        waited_for = ((claimant.stalls_at, claimant) for claimant in self._received)
        found = heapq.nsmallest(_SLOWEST_KEPT, (each for each in waited_for if each[0] < float("inf")), key=_time_of)
        self._slowest = found[::-1]
        return self._still_slowest()

    async def abandon(self) -> None:
        """Give up what is in flight: each request fails with `ShuttingDownError`. Returns when all are answered."""
        for claimant in (*self._received, *self._in_flight, *self._aside):
            claimant.end(shutting_down())
        await self._idle.wait()


def _too_many_received() -> QueueFullError:
    return QueueFullError("Too many requests are being received; come back later, or send faster.", retry_after_s=1)


def shutting_down() -> ShuttingDownError:
    """Return what a request that cannot be finished is answered with."""
    return ShuttingDownError("The service is shutting down.", retry_after_s=1)
