"""A model's bounded queue: items of many requests in, batches to the lanes, every waiter settled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import structlog

from jetface.batching.failures import deadline_exceeded, shutting_down
from jetface.batching.health import Health
from jetface.batching.lane import Lane, LaneThread, RunEnd
from jetface.batching.lane_pool import LanePool
from jetface.batching.observer import Observer, SilentObserver
from jetface.batching.policy import share_of
from jetface.batching.runs import Runs
from jetface.batching.submission import BatchOutcome, Entry, Submission
from jetface.batching.waiting import WaitingItems
from jetface.errors import QueueFullError, ServiceError

Item = TypeVar("Item")
Result = TypeVar("Result")

_log = structlog.get_logger(__name__)


class Batcher(Generic[Item, Result]):
    """Runs items of many submissions together on one model's lanes.

    A lane that is free takes what waits, at once: there is no timer. One that takes ahead is given a full batch, no
    other, before its run ends; that batch lies ready, counts as waiting, and cannot be withdrawn any more.

    All state belongs to the event loop that the first call runs on, hence no locks; every method must be called there,
    except the properties, which any thread may read.

    A batch that fails is run again item by item, so that one bad item does not fail its neighbours; not so when the
    lane says that the model or the backend cannot be had.
    """

    def __init__(
        self,
        name: str,
        lanes: Sequence[Lane[Item, Result]],
        *,
        max_batch: int,
        max_waiting: int,
        key: Callable[[Item], Hashable] = lambda _: None,
        observer: Observer | None = None,
        probe_items: Sequence[Item] = (),
    ) -> None:
        """Create a batcher; its threads start with the first call that needs them.

        Args:
            name: The model's, for threads and log.
            lanes: At least one. Each gets a thread of its own.
            max_batch: Most items of a run, >= 1.
            max_waiting: Most items that wait, in the queue or ready, >= 1; those in a run do not count.
            key: What an item may run with: items of equal keys share a batch.
            observer: Told of waits, runs, failures and drops.
            probe_items: A batch that any sound model can run, for `probe`.

        Raises:
            ValueError: A number is out of range, or there is no lane.
        """
        if min(max_batch, max_waiting, len(lanes)) < 1:
            raise ValueError("max_batch, max_waiting and the number of lanes must be at least 1")
        self.name = name
        self.max_batch = max_batch
        self.max_waiting = max_waiting
        self._lanes = tuple(lanes)
        self._key = key
        self._observer = observer or SilentObserver()
        self._probe_items = tuple(probe_items)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: LanePool[Item, Result] | None = None
        self._queue: WaitingItems[Item, Result] = WaitingItems(self._observer)
        self._runs: Runs[Item, Result] = Runs(self._observer)
        self._health = Health()
        self._is_dispatch_due = False
        self._is_closed = False
        self._is_abandoned = False

    @property
    def waiting(self) -> int:
        """Items that wait for a run: in the queue, or ready on a lane."""
        return len(self._queue) + self._runs.num_ready_items

    @property
    def running(self) -> int:
        """Runs under way: 0 to the number of lanes."""
        return len(self._runs)

    @property
    def last_run_failed(self) -> bool:
        """Whether the run that ended last failed."""
        return self._health.last_run_failed

    @property
    def retry_after_s(self) -> float:
        """Seconds until what waits now has run, from the measured time an item takes."""
        return self._health.seconds_for(max(1, self.waiting), self._pool.num_lanes if self._pool else len(self._lanes))

    def oldest_run_s(self) -> float:
        """Seconds the longest run under way has been going; 0 when none is."""
        return 0.0 if self._loop is None else self._runs.oldest_s(self._loop.time())

    async def submit(self, items: Sequence[Item], *, group: Hashable, deadline: float) -> BatchOutcome[Result]:
        """Run `items`, with those of others where that fits, and wait for all of their results.

        Args:
            items: Up to `max_waiting`; several lanes may take parts. Cancelling withdraws what has not started.
            group: The request it is for; requests take turns.
            deadline: `loop.time()` after which the answer is of no use.

        Returns:
            One result an item, in order, and how long they waited and ran.

        Raises:
            QueueFullError: `items` do not fit into the queue now; `retry_after_s` is measured. None of them was queued.
            DeadlineExceededError: The deadline passed before the last result, even while a run goes on.
            ShuttingDownError: The batcher is closed, or was before the items could run.
            InferenceError: A run of one of the items failed, the cause chained. Each caller gets an error of its own.
            ServiceError: Of the type that the lane raised.
        """
        loop, _ = self._open()
        if self._is_closed:
            raise shutting_down()
        if not items:
            return BatchOutcome([], 0.0, 0.0)
        if deadline <= loop.time():
            self._observer.dropped("deadline", len(items))
            raise deadline_exceeded()
        if self.waiting + len(items) > self.max_waiting:
            raise QueueFullError("Too many items wait for the model.", retry_after_s=self.retry_after_s)
        return await self._wait_for(items, group, deadline)

    async def probe(self, *, timeout_s: float = 5.0) -> bool:
        """Whether the model answers: yes when its last run did, else a probe batch is run to see.

        Any number of calls at once share one probe. It does not count against `max_waiting`.

        Args:
            timeout_s: Seconds after which a probe that waits or runs counts as failed.
        """
        if not self.last_run_failed or not self._probe_items or self._is_closed:
            return not self.last_run_failed
        return await self._health.probe_once(lambda: self._run_probe(timeout_s))

    async def start(self) -> None:
        """Start the lanes now rather than with the first call; return when each is ready, or raise what one raised."""
        await self._open()[1].wait_until_started()

    async def replace_lanes(
        self, lanes: Sequence[Lane[Item, Result]], *, max_batch: int, probe_items: Sequence[Item]
    ) -> None:
        """Let other lanes take over, between two runs, once all of them have started; callers notice nothing.

        What lanes were given, they run; what is in the queue goes to the new ones. The former lanes are closed
        when none of them runs any more. Where a new one cannot start, what it raised is raised here, and they serve on.
        One call at a time. A batcher that is closed raises ShuttingDownError, or closes them with itself.
        """
        pool = self._open()[1]
        if self._is_closed:
            raise shutting_down()
        await pool.replace(lanes)
        self.max_batch, self._probe_items = max_batch, tuple(probe_items)
        self._health.forget()
        self._dispatch()

    async def close(self, *, drain: bool = True, grace_s: float = 10.0) -> None:
        """Take nothing more, run what waits, fail what is left, close the lanes. A second call does no harm.

        Args:
            drain: False fails what is in the queue at once; what lanes were given may still run within the grace.
            grace_s: Seconds after which whoever still waits gets ShuttingDownError. A lane that is still in a run then
                is left behind with its thread; it is closed when the run ends, if ever.
        """
        _, pool = self._open()
        if self._is_abandoned:
            return
        self._is_closed = True
        if not drain:
            self._queue.shut_down()
        self._dispatch()
        try:
            await asyncio.wait_for(pool.all_stopped.wait(), grace_s)
        except asyncio.TimeoutError:
            _log.error("lanes left behind", model=self.name, num_lanes=pool.num_alive, oldest_run_s=self.oldest_run_s())
        finally:
            self._is_abandoned = True
            self._queue.shut_down()
            for entry in self._runs.entries():
                entry.submission.fail(shutting_down(), "shutdown")
            self._dispatch()
        await self._health.wait_for_probe()

    def _open(self) -> tuple[asyncio.AbstractEventLoop, LanePool[Item, Result]]:
        """Tie the batcher to the running loop, once, and start its lanes."""
        if self._loop is None or self._pool is None:
            self._loop = asyncio.get_running_loop()
            self._pool = LanePool(self._lanes, self.name, self._loop, on_ready=self._dispatch, on_end=self._on_run_end)
        return self._loop, self._pool

    async def _wait_for(self, items: Sequence[Item], group: Hashable, deadline: float) -> BatchOutcome[Result]:
        loop, _ = self._open()
        now = loop.time()
        submission: Submission[Item, Result] = Submission(len(items), deadline, loop.create_future(), now)
        # Keys first: one that cannot be told must leave nothing in the queue.
        entries = [Entry(submission, i, item, group, self._key(item), now) for i, item in enumerate(items)]
        submission.entries = entries
        for entry in entries:
            self._queue.add(entry)
        if not self._is_dispatch_due:
            # Not at once: what other tasks submit in this turn of the loop joins the batch, at no cost in time.
            self._is_dispatch_due = True
            loop.call_soon(self._dispatch)
        return await self._queue.outcome_of(submission)

    async def _run_probe(self, timeout_s: float) -> bool:
        loop, _ = self._open()
        if self._is_closed:  # since the probe was asked for
            return False
        try:
            await self._wait_for(self._probe_items, self, loop.time() + timeout_s)
        except ServiceError as error:
            _log.warning("probe failed", model=self.name, reason=error.message)
            return False
        return True

    def _dispatch(self) -> None:
        """Give what waits to the lanes that are free, and full batches to those that take ahead."""
        loop, pool = self._open()
        self._is_dispatch_due = False
        now = loop.time()
        while self._queue and pool.num_free:
            entries = self._queue.take(share_of(len(self._queue), pool.num_free, self.max_batch), now)
            if entries:
                self._give(pool.claim(), entries, now)
        while pool.num_ahead and self._queue.has_full_batch(self.max_batch):
            entries = self._queue.take(self.max_batch, now)
            if entries:  # fewer, where callers have left in this turn of the loop
                self._give(pool.claim_ahead(), entries, now)
        if self._is_closed and not self._queue and (not self._runs or self._is_abandoned):
            # All at once: lanes may share what they close.
            pool.stop_free()

    def _give(self, lane: LaneThread[Item, Result], entries: Sequence[Entry[Item, Result]], now: float) -> None:
        lane.post([entry.item for entry in entries])
        self._runs.add(lane, entries, now)

    def _on_run_end(self, lane: LaneThread[Item, Result], end: RunEnd[Result]) -> None:
        loop, _ = self._open()
        now = loop.time()
        entries = self._runs.end(lane, end.ended_at, now)
        if end.error is None:
            self._health.note_passed(len(entries), end.took_s)
            for entry, result in zip(entries, end.results, strict=True):
                entry.submission.succeed(entry.index, result)
        else:
            self._health.note_failed()
            is_retried = self._queue.settle_failed(entries, end.error, now, may_retry=not self._is_abandoned)
            num_items = len(entries)
            _log.error("run failed", model=self.name, num_items=num_items, is_retried=is_retried, exc_info=end.error)
            self._observer.failed()
        self._dispatch()
        if end.error is None:
            self._observer.ran(len(entries), end.took_s)
