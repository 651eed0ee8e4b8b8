"""How many pixels may be decoded at once, or bytes of bodies kept, and who is next."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from app.errors import DeadlineExceededError


@dataclass(slots=True, eq=False)
class _Waiter:
    amount: int
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_granted(self) -> bool:
        return self.granted.done() and not self.granted.cancelled() and self.granted.exception() is None


class Budget:
    """A semaphore of pixels or bytes. First come, first served: a large picture is not overtaken by small ones.

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
        if not self._waiters and self._fits(amount):
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
        self._grant()

    def _fits(self, amount: int) -> bool:
        return self._held + amount <= self.capacity

    def _grant(self) -> None:
        while self._waiters and self._fits(self._waiters[0].amount):
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


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("The deadline passed before there was room for the picture.")
