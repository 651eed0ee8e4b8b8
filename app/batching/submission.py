"""One call of `submit` on its way: its items in the queue and in runs, and the one future they settle."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.batching.observer import DropReason

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(slots=True, eq=False)
class Submission(Generic[Item, Result]):
    """The state of one call of `submit`. Belongs to the event loop's thread; times are `loop.time()`."""

    num_items: int
    deadline: float
    future: asyncio.Future[BatchOutcome[Result]]
    mark: float
    """When the submission last began to wait or to run."""
    waiting: set[Entry[Item, Result]] = field(default_factory=set)
    gone_reason: DropReason = "cancelled"
    """Why its items are dropped once the future is done; a future is done early by nobody but us or its caller."""
    _results: dict[int, Result] = field(default_factory=dict)
    _num_running: int = 0
    _queued_s: float = 0.0
    _ran_s: float = 0.0

    def enter_run(self, entry: Entry[Item, Result], now: float) -> None:
        """Note that `entry` is handed to a lane."""
        self.waiting.discard(entry)
        if self._num_running == 0:
            self._queued_s += now - self.mark
            self.mark = now
        self._num_running += 1

    def leave_run(self, now: float) -> None:
        """Note that a lane is done with one entry, well or not."""
        self._num_running -= 1
        if self._num_running == 0:
            self._ran_s += now - self.mark
            self.mark = now

    def succeed(self, entry: Entry[Item, Result], result: Result) -> None:
        """Keep the result of one item; the last one answers the caller."""
        if self.future.done():
            return
        self._results[entry.index] = result
        if len(self._results) == self.num_items:
            results = [self._results[index] for index in range(self.num_items)]
            self.future.set_result(BatchOutcome(results=results, queued_s=self._queued_s, ran_s=self._ran_s))

    def fail(self, error: BaseException, reason: DropReason) -> None:
        """Answer the caller with `error`, unless it has its answer; `reason` is why items that wait are dropped."""
        if not self.future.done():
            self.gone_reason = reason
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True, eq=False)
class Run(Generic[Item, Result]):
    """A batch on its way through a lane."""

    entries: list[Entry[Item, Result]]
    started_at: float
