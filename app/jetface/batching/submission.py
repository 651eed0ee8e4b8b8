"""One call of `submit` on its way: its items in the queue and in runs, and the one future they settle."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from jetface.batching.observer import DropReason

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class BatchOutcome(Generic[Result]):
    """What came of one submission. `queued_s + ran_s` is its wall time."""

    results: list[Result]
    """One an item, in the order of the items."""
    queued_s: float
    """Seconds in which all of its unfinished items waited."""
    ran_s: float
    """Seconds in which at least one of its items was in a run."""


@dataclass(slots=True, eq=False)
class Entry(Generic[Item, Result]):
    """One item that waits or runs; what the queue orders."""

    submission: Submission[Item, Result]
    index: int
    item: Item
    group: Hashable
    key: Hashable
    queued_at: float


class Submission(Generic[Item, Result]):
    """The state of one call of `submit`. Belongs to the event loop's thread; times are `loop.time()`."""

    __slots__ = (
        "__weakref__",
        "_mark",
        "_num_missing",
        "_num_running",
        "_queued_s",
        "_ran_s",
        "_results",
        "deadline",
        "entries",
        "future",
        "gone_reason",
        "num_waiting",
    )

    def __init__(
        self, num_items: int, deadline: float, future: asyncio.Future[BatchOutcome[Result]], now: float
    ) -> None:
        self.deadline = deadline
        self.future = future
        self.entries: list[Entry[Item, Result]] = []
        """All of them, wherever they are."""
        self.num_waiting = 0
        """Of them, those in the queue."""
        self.gone_reason: DropReason = "cancelled"
        """Why its items are dropped once the future is done; a future is done early by nobody but us or its caller."""
        self._results: list[Any] = [None] * num_items
        self._num_missing = num_items
        self._num_running = 0
        self._mark = now
        """When the submission last began to wait or to run."""
        self._queued_s = 0.0
        self._ran_s = 0.0

    def enter_run(self, at: float) -> None:
        """Note that an entry runs since `at`: the past, where a lane took it by itself."""
        if self._num_running == 0:
            at = max(at, self._mark)
            self._queued_s += at - self._mark
            self._mark = at
        self._num_running += 1

    def leave_run(self, now: float) -> None:
        """Note that a lane is done with one entry, well or not."""
        self._num_running -= 1
        if self._num_running == 0:
            self._ran_s += now - self._mark
            self._mark = now

    def succeed(self, index: int, result: Result) -> None:
        """Keep the result of one item; the last one answers the caller."""
        if self.future.done():
            return
        self._results[index] = result
        self._num_missing -= 1
        if not self._num_missing:
            self.future.set_result(BatchOutcome(self._results, self._queued_s, self._ran_s))

    def fail(self, error: BaseException, reason: DropReason) -> None:
        """Answer the caller with `error`, unless it has its answer; `reason` is why items that wait are dropped."""
        if not self.future.done():
            self.gone_reason = reason
            self.future.set_exception(error)
