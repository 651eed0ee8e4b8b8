"""What was given to the lanes: the run under way on each, and the batch that lies ready behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from jetface.batching.lane import LaneThread
from jetface.batching.observer import Observer
from jetface.batching.submission import Entry

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class _Run(Generic[Item, Result]):
    """A batch on its way through a lane."""

    entries: Sequence[Entry[Item, Result]]
    started_at: float
    """For a ready batch, when it was given to the lane."""


class Runs(Generic[Item, Result]):
    """The batches of one batcher that lanes have: one under way on each, one more at most that lies ready behind it.

    A lane takes its ready batch by itself when its run ends; here that is known once the end is told. Until then its
    items wait, though nothing can withdraw them any more. Belongs to the event loop's thread; times are `loop.time()`.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._under_way: dict[LaneThread[Item, Result], _Run[Item, Result]] = {}
        self._ready: dict[LaneThread[Item, Result], _Run[Item, Result]] = {}
        self.num_ready_items = 0
        """Items in the batches that lie ready."""

    def __len__(self) -> int:
        """Number of runs under way."""
        return len(self._under_way)

    def oldest_s(self, now: float) -> float:
        """Seconds the longest run under way has been going; 0 when none is."""
        return now - min((run.started_at for run in self._under_way.values()), default=now)

    def entries(self) -> Iterator[Entry[Item, Result]]:
        """Yield all that lanes have."""
        for runs in (self._under_way, self._ready):
            for run in runs.values():
                yield from run.entries

    def add(self, lane: LaneThread[Item, Result], entries: Sequence[Entry[Item, Result]], now: float) -> None:
        """Note that a lane was given a batch: it runs, or lies ready where the lane is in a run."""
        if lane in self._under_way:
            self._ready[lane] = _Run(entries, now)
            self.num_ready_items += len(entries)
        else:
            self._start(lane, entries, now)

    def end(self, lane: LaneThread[Item, Result], ended_at: float, now: float) -> Sequence[Entry[Item, Result]]:
        """Note that a lane's run has ended, and that its ready batch runs since then.

        Args:
            lane: Its ends are told in their order.
            ended_at: When the lane was done, which the loop may learn late.
            now: Not before it.

        Returns:
            What the run was made of.
        """
        entries = self._under_way.pop(lane).entries
        ready = self._ready.pop(lane, None)
        if ready is not None:
            self.num_ready_items -= len(ready.entries)
            # It may have been given to the lane after the run's end and before that was told.
            self._start(lane, ready.entries, min(now, max(ended_at, ready.started_at)))
        for entry in entries:
            entry.submission.leave_run(now)
        return entries

    def _start(self, lane: LaneThread[Item, Result], entries: Sequence[Entry[Item, Result]], at: float) -> None:
        self._under_way[lane] = _Run(entries, at)
        for entry in entries:
            entry.submission.enter_run(at)
        self._observer.waited([at - entry.queued_at for entry in entries])
