"""How many pixels may be decoded at once, and who is next."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from app.errors import DeadlineExceededError


@dataclass(slots=True, eq=False)
class _Waiter:
    pixels: int
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_granted(self) -> bool:
        return self.granted.done() and not self.granted.cancelled() and self.granted.exception() is None


class PixelBudget:
    """A semaphore that counts pixels. First come, first served: a large picture is not overtaken by small ones.

    All methods belong to one event loop's thread.
    """

    def __init__(self, capacity_pixels: int) -> None:
        """Create a budget.

        Args:
            capacity_pixels: Most pixels held at once, at least 1.
        """
        self.capacity_pixels = capacity_pixels
        self._held_pixels = 0
        self._waiters: deque[_Waiter] = deque()

    @property
    def held_pixels(self) -> int:
        """Pixels in use."""
        return self._held_pixels

    @property
    def num_waiting(self) -> int:
        """Callers of `acquire` that wait."""
        return len(self._waiters)

    async def acquire(self, pixels: int, *, deadline: float) -> None:
        """Wait until `pixels` are free and take them. Whoever leaves early, by any way, takes nothing.

        Args:
            pixels: At most `capacity_pixels`.
            deadline: `loop.time()` after which waiting is of no use.

        Raises:
            DeadlineExceededError: The deadline passed.
            ValueError: More than there ever will be.
        """
        if pixels > self.capacity_pixels:
            raise ValueError(f"{pixels} pixels exceed the budget of {self.capacity_pixels}")
        loop = asyncio.get_running_loop()
        if loop.time() >= deadline:
            raise _too_late()
        if not self._waiters and self._fits(pixels):
            self._held_pixels += pixels
            return
        waiter = _Waiter(pixels)
        self._waiters.append(waiter)
        alarm = loop.call_at(deadline, self._expire, waiter)
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.is_granted:  # in the same turn of the loop
                self.release(pixels)
            raise
        finally:
            alarm.cancel()
            self._forget(waiter)

    def release(self, pixels: int) -> None:
        """Give back what was taken."""
        self._held_pixels -= pixels
        self._grant()

    def _fits(self, pixels: int) -> bool:
        return self._held_pixels + pixels <= self.capacity_pixels

    def _grant(self) -> None:
        while self._waiters and self._fits(self._waiters[0].pixels):
            waiter = self._waiters.popleft()
            if not waiter.granted.done():
                self._held_pixels += waiter.pixels
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
    return DeadlineExceededError("The deadline passed before the picture could be decoded.")
