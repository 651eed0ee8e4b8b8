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
        threads = [
            LaneThread(lane, f"{name}-{index}", loop, on_end=on_end, on_stop=self._on_stop)
            for index, lane in enumerate(lanes)
        ]
        self._free = threads
        self._num_alive = len(threads)
        self.all_stopped = asyncio.Event()

    @property
    def num_free(self) -> int:
        """Lanes that could run now."""
        return len(self._free)

    @property
    def num_alive(self) -> int:
        """Lanes that have not stopped."""
        return self._num_alive

    def claim(self) -> LaneThread[Item, Result]:
        """Take a lane out of the free ones: the one that ran last, whose caches are warm. Only while `num_free` > 0."""
        return self._free.pop()

    def release(self, thread: LaneThread[Item, Result]) -> None:
        """Give back a lane whose run has ended."""
        self._free.append(thread)

    def stop_free(self) -> None:
        """Close the lanes that are free now; none of them is claimed again."""
        for thread in self._free:
            thread.stop()
        self._free.clear()

    def _on_stop(self, thread: LaneThread[Item, Result]) -> None:
        thread.join()
        self._num_alive -= 1
        if not self._num_alive:
            self.all_stopped.set()
