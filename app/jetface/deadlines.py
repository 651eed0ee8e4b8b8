"""Deadlines of many waiters on one timer: a timer for each costs more than most of what they wait for."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar


class Waiter(Protocol):
    """Who waits for a future; takes weak references."""

    future: asyncio.Future[Any]


WaiterT = TypeVar("WaiterT", bound=Waiter)


class Deadlines(Generic[WaiterT]):
    """Tells who is late. Belongs to one event loop's thread; holds no waiter, and needs no word when one is done."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_late: Callable[[WaiterT], None]) -> None:
        """Watch nobody yet.

        Args:
            loop: Whose clock counts.
            on_late: Called with a waiter whose deadline has come and whose future is not done; must not raise.
        """
        self._loop = loop
        self._on_late = on_late
        self._waiters: list[tuple[float, int, weakref.ref[WaiterT]]] = []
        self._counter = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, deadline: float, waiter: WaiterT) -> None:
        """Watch a waiter until `deadline`, `loop.time()`."""
        # Those who are done go when they come first: most deadlines are as far away as the next one, so they soon do.
        while self._waiters and _undone(self._waiters[0][2]) is None:
            heapq.heappop(self._waiters)
        heapq.heappush(self._waiters, (deadline, next(self._counter), weakref.ref(waiter)))
        if self._timer is None or deadline < self._timer.when():
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._waiters[0][0], self._ring) if self._waiters else None

    def _ring(self) -> None:
        # The loop calls what is due within its clock's resolution, which may be a little early.
        now = max(self._loop.time(), self._timer.when() if self._timer else 0.0)
        while self._waiters:
            deadline, _, reference = self._waiters[0]
            waiter = _undone(reference)
            if waiter is not None and deadline > now:
                break
            heapq.heappop(self._waiters)
            if waiter is not None:
                self._on_late(waiter)
        self._set_timer()


def _undone(reference: weakref.ref[WaiterT]) -> WaiterT | None:
    waiter = reference()
    return None if waiter is None or waiter.future.done() else waiter
