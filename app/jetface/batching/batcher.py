"""A model's batcher: items of many requests in, batches to the lanes, every waiter settled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar, get_args

import structlog

from jetface.batching.lane import Lane, LaneThread
from jetface.batching.queue import BatchOutcome, BatchQueue, Crew, DropReason, Entry, Run, Submission
from jetface.errors import DeadlineExceededError, InferenceError, QueueFullError, ServiceError, ShuttingDownError
from jetface.metrics import Metrics
from jetface.threads import Deadlines

Item = TypeVar("Item")
Result = TypeVar("Result")

_NEWEST_RUN_WEIGHT = 0.2
"""Share of the newest run in the running mean of seconds per item: a change of load shows after some five runs."""

_UNMEASURED_RETRY_S = 1.0
"""What a refused caller is told before any run has ended."""

_log = structlog.get_logger(__name__)


class Batcher(Generic[Item, Result]):
    """Runs items of many submissions together on one model's lanes.

    A lane that is free takes what waits, at once: there is no timer. Methods must be called on the event loop that the
    first call runs on; any thread may read the properties. A batch that fails is run again item by item, so that one
    bad item does not fail its neighbours; not so when the lane says that the model or the backend cannot be had.
    """

    def __init__(
        self,
        name: str,
        lanes: Sequence[Lane[Item, Result]],
        *,
        max_batch: int,
        max_waiting: int,
        metrics: Metrics,
        key: Callable[[Item], Hashable] = lambda _: None,
        probe_items: Sequence[Item] = (),
    ) -> None:
        """Create a batcher; its threads start with the first call that needs them.

        Args:
            name: The model's, for threads, log and metrics.
            lanes: At least one. Each gets a thread of its own.
            max_batch: Most items of a run, >= 1.
            max_waiting: Most items that wait, >= 1; those in a run do not count.
            metrics: Where waits, runs, failures and drops are counted.
            key: What an item may run with: items of equal keys share a batch.
            probe_items: A batch that any sound model can run, for `probe`.

        Raises:
            ValueError: A number is out of range, or there is no lane.
        """
        if min(max_batch, max_waiting, len(lanes)) < 1:
            raise ValueError("max_batch, max_waiting and the number of lanes must be at least 1")
        self.name = name
        self.max_waiting = max_waiting
        self.last_run_failed = False
        """Whether the run that ended last failed."""
        self._lanes = lanes
        self._key = key
        self._probe_items = tuple(probe_items)
        self._probe: asyncio.Task[bool] | None = None
        self._queue: BatchQueue[Item, Result] = BatchQueue(max_batch)
        self._deadlines: Deadlines[Submission[Item, Result]] = Deadlines(_expire)
        self._threads: list[LaneThread[Item, Result]] = []
        """All that may not have stopped."""
        self._serving: list[LaneThread[Item, Result]] = []
        """Those of the lanes that serve."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._item_s: float | None = None
        # Children are looked up once: `labels` costs as much as the observation itself.
        self._queue_seconds = metrics.queue_seconds.labels(name)
        self._batch_size = metrics.batch_size.labels(name)
        self._run_seconds = metrics.run_seconds.labels(name)
        self._run_failures = metrics.run_failures.labels(name)
        self._dropped = {reason: metrics.dropped.labels(name, reason) for reason in get_args(DropReason)}
        self._is_closed = False
        self._is_abandoned = False

    @property
    def max_batch(self) -> int:
        """Most items of a run."""
        return self._queue.max_batch

    @property
    def waiting(self) -> int:
        """Items that wait for a run."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Runs under way: 0 to the number of lanes."""
        return self._queue.num_running

    @property
    def retry_after_s(self) -> float:
        """Seconds until what waits now has run, from the measured time an item takes."""
        if self._item_s is None:
            return _UNMEASURED_RETRY_S
        return max(1, self.waiting) * self._item_s / max(1, self._queue.crew.num_lanes)

    def oldest_run_s(self) -> float:
        """Seconds the longest run under way has been going; 0 when none is."""
        return self._queue.oldest_run_s()

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
        loop = self._loop or self._open()
        if self._is_closed:
            raise _shutting_down()
        if not items:
            return BatchOutcome([], 0.0, 0.0)
        now = loop.time()
        if deadline <= now:
            self._dropped["deadline"].inc(len(items))
            raise _too_late()
        if len(self._queue) + len(items) > self.max_waiting:
            raise QueueFullError("Too many items wait for the model.", retry_after_s=self.retry_after_s)
        return await self._wait_for(items, group, deadline, loop, now)

    async def probe(self, *, timeout_s: float = 5.0) -> bool:
        """Return whether the model answers: yes when its last run did, else a probe batch is run to see.

        Any number of calls at once share one probe. It does not count against `max_waiting`. A caller that is cancelled
        leaves it to the others.

        Args:
            timeout_s: Seconds after which a probe that waits or runs counts as failed.
        """
        if not self.last_run_failed or not self._probe_items or self._is_closed:
            return not self.last_run_failed
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._run_probe(timeout_s))
        return await asyncio.shield(self._probe)

    async def start(self) -> None:
        """Start the lanes now rather than with the first call; return when each is ready, or raise what one raised."""
        self._open()
        await _all_started(self._serving)

    async def replace_lanes(
        self, lanes: Sequence[Lane[Item, Result]], *, max_batch: int, probe_items: Sequence[Item]
    ) -> None:
        """Let other lanes take over, between two runs, once all of them have started; callers notice nothing.

        What lanes run, they finish; what waits goes to the new ones. The former lanes are closed when none of them
        runs any more. Where a new one cannot start, what it raised is raised here, and the former serve on.
        One call at a time. A batcher that is closed raises ShuttingDownError, or closes them with itself.
        """
        self._open()
        if self._is_closed:
            raise _shutting_down()
        crew, threads = self._hire(lanes)
        try:
            await _all_started(threads)
        except BaseException:
            self._queue.retire(crew)
            raise
        if self._is_closed:
            self._queue.retire(crew)
            return
        self._queue.hand_over(crew, max_batch)
        self._serving, self._probe_items = threads, tuple(probe_items)
        self.last_run_failed, self._item_s = False, None

    async def close(self, *, drain: bool = True, grace_s: float = 10.0) -> None:
        """Take nothing more, run what waits, fail what is left, close the lanes. A second call does no harm.

        Args:
            drain: False fails what waits at once; what runs may still end within the grace.
            grace_s: Seconds after which whoever still waits gets ShuttingDownError. A lane that is still in a run then
                is left behind with its thread; it is closed when the run ends, if ever.
        """
        self._open()
        if self._is_abandoned:
            return
        self._is_closed = True
        _fail_shutting_down(self._queue.close(drain=drain))
        try:
            await asyncio.wait([thread.stopped for thread in self._threads], timeout=grace_s)
            left = [thread for thread in self._threads if not thread.stopped.done()]
            if left:
                _log.error("lanes left behind", model=self.name, num_lanes=len(left), oldest_run_s=self.oldest_run_s())
        finally:
            self._is_abandoned = True
            _fail_shutting_down(self._queue.abandon())
        if self._probe is not None:
            await asyncio.wait([self._probe])

    def _open(self) -> asyncio.AbstractEventLoop:
        """Tie the batcher to the running loop and start its lanes, once; return the loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            crew, self._serving = self._hire(self._lanes)
            self._queue.hand_over(crew, self.max_batch)
        return self._loop

    def _hire(self, lanes: Sequence[Lane[Item, Result]]) -> tuple[Crew, list[LaneThread[Item, Result]]]:
        crew = self._queue.hire(len(lanes), sum(lane.start is not None for lane in lanes))
        threads = [
            LaneThread(lane, f"{self.name}-{index}", self._queue, crew, self._on_run_end)
            for index, lane in enumerate(lanes)
        ]
        # Those that have stopped go: a model's lanes may be replaced many times.
        self._threads = [*(thread for thread in self._threads if not thread.stopped.done()), *threads]
        return crew, threads

    async def _wait_for(
        self, items: Sequence[Item], group: Hashable, deadline: float, loop: asyncio.AbstractEventLoop, now: float
    ) -> BatchOutcome[Result]:
        submission: Submission[Item, Result] = Submission(len(items), deadline, loop.create_future(), now)
        # Keys first: one that cannot be told must leave nothing in the queue.
        submission.entries = [Entry(submission, i, item, group, self._key(item), now) for i, item in enumerate(items)]
        if self._queue.put(submission.entries):
            # Not at once: what other tasks submit in this turn of the loop joins the batch, at no cost in time.
            loop.call_soon(self._queue.flush)
        self._deadlines.add(deadline, submission)
        try:
            return await submission.future
        except (Exception, asyncio.CancelledError):
            self._dropped[submission.gone or "cancelled"].inc(self._queue.withdraw(submission))
            if submission.future.done() and not submission.future.cancelled():
                submission.future.exception()  # read, also when the caller was cancelled just after it was set
            raise
        finally:
            submission.entries = []  # they know their submission: a cycle

    async def _run_probe(self, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        if self._is_closed:  # since the probe was asked for
            return False
        now = loop.time()
        try:
            await self._wait_for(self._probe_items, self, now + timeout_s, loop, now)
        except ServiceError as error:
            _log.warning("probe failed", model=self.name, reason=error.message)
            return False
        return True

    def _on_run_end(self, run: Run[Item, Result]) -> None:
        """Settle those whose items ran, and count the run."""
        now = time.monotonic()
        for entry in run.entries:
            entry.submission.note_run(run.started_at, now)
        if run.error is None:
            for entry, result in zip(run.entries, run.results, strict=True):
                entry.submission.succeed(entry.index, result, now)
            self.last_run_failed = False
            item_s = run.took_s / len(run.entries)
            mean_s = item_s if self._item_s is None else self._item_s
            self._item_s = mean_s + _NEWEST_RUN_WEIGHT * (item_s - mean_s)
            self._batch_size.observe(len(run.entries))
            self._run_seconds.observe(run.took_s)
        else:
            if not run.is_retried:
                for entry in run.entries:
                    entry.submission.fail(own_error(run.error), "failed")
            self.last_run_failed = True
            num_items, is_retried = len(run.entries), run.is_retried
            _log.error("run failed", model=self.name, num_items=num_items, is_retried=is_retried, exc_info=run.error)
            self._run_failures.inc()
        for waited_s in run.waited_s:
            self._queue_seconds.observe(waited_s)


def own_error(cause: BaseException) -> ServiceError:
    """Return a new error for one waiter: a shared exception object would collect everybody's traceback.

    A `ServiceError` keeps its type and message; anything else is an `InferenceError`. `cause` is chained.
    """
    error = cause.copy() if isinstance(cause, ServiceError) else InferenceError("The model's run failed.")
    error.__cause__ = cause
    return error


async def _all_started(threads: Sequence[LaneThread[Item, Result]]) -> None:
    """Wait until each lane could run; raise what one of them raised instead."""
    await asyncio.wait([thread.started for thread in threads])
    for thread in threads:
        error = thread.started.result()
        if error is not None:
            raise error


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("The deadline passed before the answer was ready.")


def _shutting_down() -> ShuttingDownError:
    return ShuttingDownError("The service is shutting down.", retry_after_s=1)


def _expire(submission: Submission[Item, Result]) -> None:
    submission.fail(_too_late(), "deadline")


def _fail_shutting_down(entries: Iterable[Entry[Item, Result]]) -> None:
    for entry in entries:
        entry.submission.fail(_shutting_down(), "shutdown")
