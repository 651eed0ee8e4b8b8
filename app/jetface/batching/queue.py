"""The queue in front of a model: the event loop puts items, each lane's thread takes its next batch when it is free.

`share_of` and `FairQueue` decide which items run together, and in what turn; they are pure. `BatchQueue` puts one lock
around them, wakes lanes, and knows when they may stop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from jetface.errors import BackendUnavailableError, CapacityError, DeviceMemoryError, ModelError

Item = TypeVar("Item")
Result = TypeVar("Result")

DropReason: TypeAlias = Literal["cancelled", "deadline", "failed", "shutdown"]
"""Why an item left the queue without a run: its caller went away; came too late; had its error already, from another
item of the same submission; the service stops."""


@dataclass(slots=True, eq=False)
class BatchOutcome(Generic[Result]):
    """What came of one submission. `queued_s + ran_s` is its wall time."""

    results: list[Result]
    """One an item, in the order of the items."""
    queued_s: float
    """Seconds in which all of its unfinished items waited."""
    ran_s: float
    """Seconds in which at least one of its items was in a run, until the event loop knew of its end."""


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
    """The state of one call of `Batcher.submit`. Times are `loop.time()`, which is `time.monotonic()`.

    Lanes' threads touch `num_waiting` and `gone`, under the queue's lock, and read whether the future is done; all else
    belongs to the event loop's thread.
    """

    def __init__(
        self, num_items: int, deadline: float, future: asyncio.Future[BatchOutcome[Result]], now: float
    ) -> None:
        self.deadline = deadline
        self.future = future
        self.entries: list[Entry[Item, Result]] = []
        """All of them, wherever they are."""
        self.num_waiting = num_items
        """Items that no run has taken."""
        self.gone: DropReason | None = None
        """Why nobody needs its items any more; None while somebody does, and where the caller has just left."""
        self._results: list[Any] = [None] * num_items
        self._num_missing = num_items
        self._submitted_at = now
        self._spans: list[tuple[float, float]] = []
        """When it ran: disjoint, in order."""

    def is_wanted(self, now: float) -> bool:
        """Whether somebody waits who can use the answer."""
        return self.gone is None and now < self.deadline and not self.future.done()

    def note_run(self, started_at: float, now: float) -> None:
        """Count a run of one of its items towards `ran_s`; runs are told in the order of their ends."""
        spans = self._spans
        while spans and spans[-1][1] > started_at:
            started_at = min(started_at, spans.pop()[0])
        spans.append((started_at, now))

    def succeed(self, index: int, result: Result, now: float) -> None:
        """Keep the result of one item; the last one answers the caller."""
        if self.future.done():
            return
        self._results[index] = result
        self._num_missing -= 1
        if not self._num_missing:
            ran_s = 0.0
            for start, end in self._spans:
                ran_s += end - start
            queued_s = max(0.0, now - self._submitted_at - ran_s)
            self.future.set_result(BatchOutcome(self._results, queued_s, ran_s))

    def fail(self, error: BaseException, reason: DropReason) -> None:
        """Answer the caller with `error`, unless it has its answer; `reason` is why items that wait are dropped."""
        if not self.future.done():
            self.gone = reason
            self.future.set_exception(error)


@dataclass(slots=True, eq=False)
class Run(Generic[Item, Result]):
    """A batch on a lane, and how its run ended."""

    entries: list[Entry[Item, Result]]
    started_at: float
    waited_s: list[float]
    """Seconds that each entry waited for it."""
    results: Sequence[Result] = ()
    """One an entry, where the run passed."""
    error: BaseException | None = None
    is_retried: bool = False
    """Whether its items wait again after it failed, each to run alone."""
    took_s: float = 0.0
    """What the lane's callable took."""


class Queued(Protocol):
    """What the fair queue must know of an entry. Entries are told apart by identity (hashable, `eq=False`)."""

    @property
    def group(self) -> Hashable:
        """Whose it is; groups take turns. One group is one request."""
        ...

    @property
    def key(self) -> Hashable:
        """What it may run with: only entries of equal keys share a batch. Must not change while it waits."""
        ...


QueuedT = TypeVar("QueuedT", bound=Queued)


def share_of(num_waiting: int, num_free_lanes: int, max_batch: int) -> int:
    """Return how many entries one lane takes, so that lanes which are free together share what waits.

    Args:
        num_waiting: Entries in the queue, >= 1.
        num_free_lanes: Lanes that could run now, the asking one included, >= 1.
        max_batch: Most items of a run, >= 1.

    Returns:
        A number in [1, max_batch].
    """
    return min(max_batch, -(-num_waiting // num_free_lanes))


def may_be_one_item(error: BaseException) -> bool:
    """Return whether a failed batch is worth running again item by item.

    Not when the lane says that the model or the backend cannot be had, that it has tried with less already, nor when it
    was told to exit: the items are not to blame then.
    """
    at_fault = (ModelError, CapacityError, BackendUnavailableError, DeviceMemoryError)
    return isinstance(error, Exception) and not isinstance(error, at_fault)


class FairQueue(Generic[QueuedT]):
    """Round-robin fair queue: groups take turns, and so do the keys of a group.

    A batch is led by the group whose turn it is, with the key whose turn it is in that group; free places go round
    among all groups that wait with this key. Only the leader gives up its turn: a group that rides along with others'
    batches would otherwise never get to lead with its own other key. Hence the bounds that the tests hold it to:

    - first in, first out within a group and key;
    - with G groups waiting and K keys in an entry's group, its key leads within G * K calls of `take`.

    Every operation costs O(1) an entry; nothing scans the queue. Not thread-safe.
    """

    def __init__(self) -> None:
        # An OrderedDict is an ordered set here: its ends and its middle can be removed in O(1), unlike a deque's.
        self._groups: OrderedDict[Hashable, OrderedDict[Hashable, OrderedDict[QueuedT, None]]] = OrderedDict()
        self._groups_by_key: dict[Hashable, OrderedDict[Hashable, None]] = {}
        self.num_entries = 0
        """Entries that wait."""

    def add(self, entry: QueuedT) -> None:
        """Append `entry` to its group; a group that did not wait gets the last turn."""
        group, key = entry.group, entry.key
        keys = self._groups.get(group)
        if keys is None:
            keys = self._groups[group] = OrderedDict()
        entries = keys.get(key)
        if entries is None:
            entries = keys[key] = OrderedDict()
            groups = self._groups_by_key.get(key)
            if groups is None:
                groups = self._groups_by_key[key] = OrderedDict()
            groups[group] = None
        entries[entry] = None
        self.num_entries += 1

    def discard(self, entry: QueuedT) -> bool:
        """Take `entry` out of the queue wherever it stands; False when it does not wait."""
        keys = self._groups.get(entry.group)
        entries = keys.get(entry.key) if keys is not None else None
        if keys is None or entries is None or entry not in entries:
            return False
        del entries[entry]
        self.num_entries -= 1
        if not entries:
            self._forget(entry.group, entry.key)
        return True

    def take(self, limit: int) -> list[QueuedT]:
        """Remove and return what runs next.

        Args:
            limit: Most entries, >= 1.

        Returns:
            1 to `limit` entries of one key; empty only when nothing waits.
        """
        if not self._groups:
            return []
        leader, keys = next(iter(self._groups.items()))
        key = next(iter(keys))
        self._groups.move_to_end(leader)
        groups = self._groups_by_key[key]
        batch = [self._pop(leader, key)]
        while groups and len(batch) < limit:
            batch.append(self._pop(next(iter(groups)), key))
        return batch

    def entries(self) -> list[QueuedT]:
        """Return everything that waits, group by group; the queue keeps it."""
        return [entry for keys in self._groups.values() for waiting in keys.values() for entry in waiting]

    def _pop(self, group: Hashable, key: Hashable) -> QueuedT:
        keys = self._groups[group]
        entries = keys[key]
        entry, _ = entries.popitem(last=False)
        self.num_entries -= 1
        if entries:
            keys.move_to_end(key)
            self._groups_by_key[key].move_to_end(group)
        else:
            self._forget(group, key)
        return entry

    def _forget(self, group: Hashable, key: Hashable) -> None:
        """Drop a group's key that no entry waits with any more."""
        groups = self._groups_by_key[key]
        del groups[group]
        if not groups:
            del self._groups_by_key[key]
        keys = self._groups[group]
        del keys[key]
        if not keys:
            del self._groups[group]


@dataclass(slots=True, eq=False)
class Crew:
    """Lanes that came together and stop together: they may share what they close, so none closes while another runs.

    Guarded by the queue's lock.
    """

    num_lanes: int
    """Those that could start, or still may."""
    num_busy: int
    """Of them, those that start or run; the others are free."""
    asleep: list[threading.Lock] = field(default_factory=list)
    """What each lane that sleeps waits for; whose caches are warm comes last."""
    is_retired: bool = False
    """Whether its lanes take nothing more."""
    is_over: bool = False
    """Whether its lanes are to stop."""


class BatchQueue(Generic[Item, Result]):
    """The items of one model that wait and run, and the lanes that take them, behind one lock.

    Items put in one turn of the event loop can be taken from its end on, so that they share a run. `len` is the number
    of items that wait.
    """

    def __init__(self, max_batch: int) -> None:
        self.max_batch = max_batch
        self.crew = Crew(0, 0)
        """The lanes that serve."""
        self._crews: list[Crew] = []
        """Those that are not over."""
        self._lock = threading.Lock()
        self._arrivals: list[Entry[Item, Result]] = []
        """Put in this turn of the loop; touched by its thread only."""
        self._waiting: FairQueue[Entry[Item, Result]] = FairQueue()
        self._running: set[Run[Item, Result]] = set()
        self._is_closed = False
        self._is_abandoned = False

    def __len__(self) -> int:
        return len(self._arrivals) + self._waiting.num_entries

    @property
    def num_running(self) -> int:
        """Runs under way."""
        return len(self._running)

    def oldest_run_s(self) -> float:
        """Return the seconds the longest run under way has been going; 0 when none is."""
        with self._lock:
            now = time.monotonic()
            return now - min((run.started_at for run in self._running), default=now)

    # Called on the event loop's thread.

    def put(self, entries: Sequence[Entry[Item, Result]]) -> bool:
        """Put items; return whether they are the first of this turn, at whose end `flush` must be called."""
        is_first = not self._arrivals
        self._arrivals += entries
        return is_first

    def flush(self) -> None:
        """Let lanes take what was put, and wake as many as there is work for."""
        arrivals, self._arrivals = self._arrivals, []
        with self._lock:
            for entry in arrivals:
                self._waiting.add(entry)
            self._wake()

    def withdraw(self, submission: Submission[Item, Result]) -> int:
        """Take out what waits of a submission whose caller is answered or gone; return how many items never ran."""
        with self._lock:
            for entry in submission.entries:
                self._waiting.discard(entry)
            num_dropped, submission.num_waiting = submission.num_waiting, 0
        return num_dropped

    def hire(self, num_lanes: int, num_starting: int) -> Crew:
        """Return a crew for new lanes, some of which have to start; it serves once it is handed over to."""
        crew = Crew(num_lanes, num_starting)
        with self._lock:
            self._crews.append(crew)
        return crew

    def hand_over(self, crew: Crew, max_batch: int) -> None:
        """Let other lanes serve from now on, between two runs; the former retire."""
        with self._lock:
            self.crew.is_retired = True
            self.crew, self.max_batch = crew, max_batch
            self._stop_retired()
            self._wake()

    def retire(self, crew: Crew) -> None:
        """Have lanes take nothing more, and stop when none of them starts or runs."""
        with self._lock:
            crew.is_retired = True
            self._stop_retired()

    def close(self, *, drain: bool) -> list[Entry[Item, Result]]:
        """Have the lanes stop when nothing waits or runs; without `drain`, remove and return what waits."""
        self.flush()
        with self._lock:
            self._is_closed = True
            left = [] if drain else self._clear()
            self._stop_retired()
        return left

    def abandon(self) -> list[Entry[Item, Result]]:
        """Have each lane stop when it is in no run, whatever the others do; return what waits and runs."""
        with self._lock:
            self._is_abandoned = True
            self._stop_retired()
            return [*self._clear(), *(entry for run in self._running for entry in run.entries)]

    # Called on lanes' threads.

    def note_started(self, crew: Crew, *, could_start: bool) -> None:
        """Note that a lane has made what it needs, or could not."""
        with self._lock:
            crew.num_busy -= 1
            crew.num_lanes -= not could_start
            self._stop_retired()

    def take(self, crew: Crew, wakeup: threading.Lock, ended: Run[Item, Result] | None) -> Run[Item, Result] | None:
        """Take what a lane runs next. Items whose callers are gone or late are skipped.

        Args:
            crew: The lane's.
            wakeup: Held by the lane. It is released, once, when the lane has to call again after None was returned.
            ended: What the lane has run since the last call.

        Returns:
            None when there is nothing to run now, or, where the crew is over, ever.
        """
        with self._lock:
            now = time.monotonic()
            if ended is not None:
                crew.num_busy -= 1
                self._running.remove(ended)
                if ended.error is not None:
                    self._retry(ended, ended.error, now)
            while crew is self.crew and (num_waiting := self._waiting.num_entries):
                taken = self._waiting.take(share_of(num_waiting, crew.num_lanes - crew.num_busy, self.max_batch))
                entries = [entry for entry in taken if entry.submission.is_wanted(now)]
                if entries:
                    run = Run(entries, now, [now - entry.queued_at for entry in entries])
                    for entry in entries:
                        entry.submission.num_waiting -= 1
                    crew.num_busy += 1
                    self._running.add(run)
                    return run
            self._stop_retired()
            if not crew.is_over:
                crew.asleep.append(wakeup)
            return None

    # Called with the lock held.

    def _retry(self, run: Run[Item, Result], error: BaseException, now: float) -> None:
        """Let each item of a failed run wait again, to run alone; where that makes no sense, its submission is over."""
        run.is_retried = not self._is_abandoned and len(run.entries) > 1 and may_be_one_item(error)
        for entry in run.entries:
            submission = entry.submission
            if submission.future.done():
                continue
            if not run.is_retried:
                submission.gone = "failed"
                continue
            entry.key = object()  # equal to no other: it runs alone
            entry.queued_at = now
            submission.num_waiting += 1
            self._waiting.add(entry)
        self._wake()

    def _wake(self) -> None:
        """Wake as many lanes as there is work for, less those that are awake."""
        crew = self.crew
        num_awake = crew.num_lanes - crew.num_busy - len(crew.asleep)
        for _ in range(min(len(crew.asleep), self._waiting.num_entries - num_awake)):
            crew.asleep.pop().release()

    def _clear(self) -> list[Entry[Item, Result]]:
        left, self._waiting = self._waiting.entries(), FairQueue()
        return left

    def _stop_retired(self) -> None:
        """Tell lanes to stop that take nothing more, once none of their crew starts or runs."""
        if self._is_closed and not self._waiting.num_entries and not self._running:
            self.crew.is_retired = True
        for crew in self._crews.copy():
            if self._is_abandoned or (crew.is_retired and not crew.num_busy):
                crew.is_over = True
                self._crews.remove(crew)
                while crew.asleep:
                    crew.asleep.pop().release()
