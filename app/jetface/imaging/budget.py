"""How many pixels may be decoded at once, how many bytes of bodies and files kept, and who is next."""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from jetface.errors import DeadlineExceededError, QueueFullError

UNCOUNTED_BYTES = 2**18
"""A body or file up to this length is not counted: small pictures are to get by while large ones wait."""

SLOW_AFTER_S = 2.0
"""How long nothing, or less than `LEAST_BYTES_PER_S`, may come of what is counted before it makes way for others."""

LEAST_BYTES_PER_S = 2**16
"""Slowest that bytes may come for long while others wait for room: a megabyte in the half minute a request has."""

_PATIENCE = 0.9
"""Part of the time that is left for which room is waited for: 429 is to come before 504."""


@dataclass(slots=True, eq=False)
class _Waiter:
    amount: int
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_granted(self) -> bool:
        return self.granted.done() and not self.granted.cancelled() and self.granted.exception() is None


class Budget:
    """A semaphore of pixels. First come, first served: a large picture is not overtaken by small ones.

    All methods belong to one event loop's thread.
    """

    def __init__(self, capacity: int) -> None:
        """Create a budget.

        Args:
            capacity: Most held at once, at least 1.
        """
        self.capacity = capacity
        self._held = 0
        self._waiters: deque[_Waiter] = deque()

    @property
    def held(self) -> int:
        """What is in use."""
        return self._held

    @property
    def num_waiting(self) -> int:
        """Callers of `acquire` that wait."""
        return len(self._waiters)

    async def acquire(self, amount: int, *, deadline: float) -> None:
        """Wait until `amount` are free and take them. Whoever leaves early, by any way, takes nothing.

        Args:
            amount: At most `capacity`.
            deadline: `loop.time()` after which waiting is of no use.

        Raises:
            DeadlineExceededError: The deadline passed.
            ValueError: More than there ever will be.
        """
        if amount > self.capacity:
            raise ValueError(f"{amount} exceeds the budget of {self.capacity}")
        loop = asyncio.get_running_loop()
        if loop.time() >= deadline:
            raise _too_late()
        if not self._waiters and self._held + amount <= self.capacity:
            self._held += amount
            return
        waiter = _Waiter(amount)
        self._waiters.append(waiter)
        alarm = loop.call_at(deadline, self._expire, waiter)
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.is_granted:  # in the same turn of the loop
                self.release(amount)
            raise
        finally:
            alarm.cancel()
            self._forget(waiter)

    def release(self, amount: int) -> None:
        """Give back what was taken."""
        self._held -= amount
        if self._waiters:
            self._grant()

    def _grant(self) -> None:
        while self._waiters and self._held + self._waiters[0].amount <= self.capacity:
            waiter = self._waiters.popleft()
            if not waiter.granted.done():
                self._held += waiter.amount
                waiter.granted.set_result(None)

    def _expire(self, waiter: _Waiter) -> None:
        if not waiter.granted.done():
            waiter.granted.set_exception(_too_late())

    def _forget(self, waiter: _Waiter) -> None:
        """Leave the queue if still in it; whoever stood behind may fit now."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            self._grant()


class ByteBudget:
    """The bytes of all bodies and files that are kept, each counted when it has come.

    What is longer than `UNCOUNTED_BYTES` has a `Share` that grows. Where there is no room for more the shares wait, the
    oldest first, and those whose bytes come slowly are ended. Where all that is held belongs to shares that wait, none
    would ever be whole: the first goes on, so the budget is exceeded by what is left of one.

    All methods belong to one event loop's thread.
    """

    def __init__(self, capacity: int) -> None:
        """Create a budget.

        Args:
            capacity: Bytes, at least 1.
        """
        self.capacity = capacity
        self._held = 0
        self._orders = itertools.count()
        self._line: list[Share] = []
        self._busy: set[Share] = set()
        """Those that hold something and wait for nothing here: their bytes come, or all are there."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> int:
        """Bytes that are kept."""
        return self._held

    @property
    def num_waiting(self) -> int:
        """Shares that wait for room."""
        return len(self._line)

    def share(self, give_way: Callable[[], object]) -> Share:
        """Return the empty share of a body or file that has begun to come.

        Args:
            give_way: Ends it; called when it comes slowly and others wait. What it holds counts as free from then on.
        """
        return Share(self, next(self._orders), give_way)

    async def grow(self, share: Share, num_bytes: int, *, deadline: float) -> None:
        """Give a share more; arguments and errors are those of `Share.grow`."""
        share.wants = num_bytes
        if not self._line and self._held + num_bytes <= self.capacity:
            self._grant(share)
            return
        loop = asyncio.get_running_loop()
        share.granted = loop.create_future()
        self._busy.discard(share)
        bisect.insort(self._line, share, key=lambda each: each.order)
        alarm = loop.call_at(loop.time() + _PATIENCE * (deadline - loop.time()), _refuse, share.granted)
        try:
            self._look()
            await share.granted
        finally:
            alarm.cancel()
            if share in self._line:
                self._line.remove(share)
                if share.held:
                    self._busy.add(share)
                self._look()

    def _grant(self, share: Share) -> None:
        self._held += share.wants
        share.held += share.wants
        share.wants = 0
        self._busy.add(share)

    def _look(self) -> None:
        """Let go on who can; else see who makes way, or when somebody may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._line:
            first = self._line[0]
            if self._held + first.wants <= self.capacity or not self._busy:
                self._grant(self._line.pop(0))
                if not first.granted.done():
                    first.granted.set_result(None)
                first.resume()
                continue
            slowest = min((*self._busy, *self._line), key=lambda share: share.slow_at)
            if slowest.slow_at > loop.time():
                if slowest.slow_at < float("inf"):
                    self._timer = loop.call_at(slowest.slow_at, self._look)
                return
            self._forget(slowest)
            slowest.has_given_way = True
            slowest.give_way()

    def drop(self, share: Share) -> None:
        """Take back what a share holds."""
        self._forget(share)
        self._look()

    def _forget(self, share: Share) -> None:
        self._held -= share.held
        share.held = 0
        self._busy.discard(share)
        if share in self._line:
            self._line.remove(share)


class Share:
    """What one body or file takes of a `ByteBudget`."""

    def __init__(self, budget: ByteBudget, order: int, give_way: Callable[[], object]) -> None:
        self.order = order
        self.give_way = give_way
        self.held = 0
        """Bytes."""
        self.wants = 0
        self.granted: asyncio.Future[None]
        self.has_given_way = False
        self.slow_at = asyncio.get_running_loop().time() + SLOW_AFTER_S
        """`loop.time()` from which its bytes come too slowly; infinite when none are waited for."""
        self._spare_s = SLOW_AFTER_S
        self._budget = budget
        self._uncounted = 0

    async def grow(self, num_bytes: int, *, deadline: float) -> None:
        """Count bytes that have come; wait until there is room for them, for most of the time that is left.

        Args:
            num_bytes: How many more.
            deadline: `loop.time()` after which they are of no use.

        Raises:
            QueueFullError: There was no room, or this has made way for others.
        """
        self._uncounted += num_bytes
        if self.held + self._uncounted <= UNCOUNTED_BYTES:
            return
        if self.has_given_way:
            raise too_slow()
        now = asyncio.get_running_loop().time()
        self._spare_s = min(self.slow_at - now + self._uncounted / LEAST_BYTES_PER_S, SLOW_AFTER_S)
        # While it waits no bytes are waited for; but who came too slowly until now stays the one to go.
        self.slow_at = float("inf") if self._spare_s > 0 else now
        wanted, self._uncounted = self._uncounted, 0
        await self._budget.grow(self, wanted, deadline=deadline)
        self.resume()

    def resume(self) -> None:
        """Expect more bytes from now on."""
        self.slow_at = asyncio.get_running_loop().time() + self._spare_s

    def complete(self) -> None:
        """Note that no more are to come: it is kept until it is closed, and no longer slow."""
        self.slow_at = float("inf")

    def close(self) -> None:
        """Give all back."""
        self._budget.drop(self)


def too_slow() -> QueueFullError:
    """Return what is said to whom has made way."""
    return QueueFullError("Too much is being received; come back later, or send faster.", retry_after_s=1)


def _refuse(granted: asyncio.Future[None]) -> None:
    if not granted.done():
        granted.set_exception(QueueFullError("Too much is being received; come back later.", retry_after_s=1))


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("The deadline passed before there was room for the picture.")
