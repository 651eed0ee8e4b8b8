"""The lanes of one batcher: which are free, which one takes the next batch, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from app.batching.lane import Lane, LaneThread, RunEnd

Item = TypeVar("Item")
Result = TypeVar("Result")


class LanePool(Generic[Item, Result]):
    """Lanes with their threads. Belongs to the event loop's thread."""

    def __init__(
        self,
        lanes: Sequence[Lane[Item, Result]],
        name: str,
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[LaneThread[Item, Result], RunEnd[Result]], None],
    ) -> None:
        self._threads = [
            LaneThread(lane, f"{name}-{index}", loop, on_end=on_end, on_stop=self._on_stop)
            for index, lane in enumerate(lanes)
        ]
        self._free = [thread for thread in self._threads if not thread.wide]
        self._free_wide = [thread for thread in self._threads if thread.wide]
        self._num_alive = len(self._threads)
        self.all_stopped = asyncio.Event()

    @property
    def num_free(self) -> int:
        """Lanes, wide ones apart, that could run now."""
        return len(self._free)

    @property
    def num_alive(self) -> int:
        """Lanes that have not stopped."""
        return self._num_alive

    def claim(self, *, num_waiting: int, num_running: int) -> LaneThread[Item, Result] | None:
        """Take the lane for the next batch out of the free ones; None when none is free.

        A wide lane takes an item that is alone in the batcher. Once it runs, what comes later starts beside it and
        not after it: two clients soon keep two lanes busy, and the wide one is left to itself.
        """
        if self._free_wide and num_waiting == 1 and num_running == 0:
            return self._free_wide.pop()
        return self._free.pop() if self._free else None

    def release(self, thread: LaneThread[Item, Result]) -> None:
        """Give back a lane whose run has ended."""
        (self._free_wide if thread.wide else self._free).append(thread)

    def stop_free(self) -> None:
        """Close the lanes that are free now; none of them is claimed again."""
        for thread in (*self._free, *self._free_wide):
            thread.stop()
        self._free.clear()
        self._free_wide.clear()

    def _on_stop(self, thread: LaneThread[Item, Result]) -> None:
        thread.join()
        self._num_alive -= 1
        if not self._num_alive:
            self.all_stopped.set()
