"""A lane: one callable that runs batches, and the one thread that owns it for its whole life."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from jetface.batching.queue import BatchQueue, Crew, Run
from jetface.errors import InferenceError

Item = TypeVar("Item")
Result = TypeVar("Result")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane(Generic[Item, Result]):
    """What a batcher needs to run batches on one device or core. All of it is called on one thread only."""

    run: Callable[[Sequence[Item]], Sequence[Result]]
    """Items of one key, in order, to as many results in the same order."""
    close: Callable[[], None] | None = None
    """Frees what `run` holds; called once, when no lane of the batcher runs any more, or after the grace when one is
    stuck. Lanes may share what they close, if closing it twice does no harm."""
    start: Callable[[], None] | None = None
    """Makes what `run` needs; called once, before the first run. Where it raises, the lane is closed and never runs."""


class LaneThread(Generic[Item, Result]):
    """Takes batches from the queue, runs them one after the other, and tells the event loop how each ended, in order.

    The thread is a daemon: a run that never ends must not keep the process from ending.
    """

    def __init__(
        self,
        lane: Lane[Item, Result],
        name: str,
        queue: BatchQueue[Item, Result],
        crew: Crew,
        on_end: Callable[[Run[Item, Result]], None],
    ) -> None:
        """Start the thread; on the event loop's.

        Args:
            lane: What runs the batches.
            name: For the thread.
            queue: Where they come from.
            crew: The lane's.
            on_end: Called on the loop's thread when a run has ended.
        """
        self._lane = lane
        self._name = name
        self._queue = queue
        self._crew = crew
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self.started: asyncio.Future[BaseException | None] = self._loop.create_future()
        """Done when the lane could run, or has raised this."""
        self.stopped: asyncio.Future[None] = self._loop.create_future()
        """Done when the thread is gone."""
        if lane.start is None:
            self.started.set_result(None)
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        if self._start():
            self._run_batches()
        if self._lane.close is not None:
            try:
                self._lane.close()
            except BaseException as error:  # noqa: BLE001 - nobody above could act on it, and the stop must be told
                _log.error("lane failed to close", lane=self._name, exc_info=error)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._on_stop)

    def _start(self) -> bool:
        """Make what runs need; return whether it could be had."""
        if self._lane.start is None:
            return True
        error: BaseException | None = None
        try:
            self._lane.start()
        except BaseException as cause:  # noqa: BLE001 - as in a run: whoever waits for the lane must be told
            error = cause
        self._queue.note_started(self._crew, could_start=error is None)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.started.set_result, error)
        return error is None

    def _run_batches(self) -> None:
        wakeup = threading.Lock()
        wakeup.acquire()
        ended: Run[Item, Result] | None = None
        while True:
            # Before the loop is told: whoever hears of an end finds the counts of the queue as they are.
            run = self._queue.take(self._crew, wakeup, ended)
            if ended is not None:
                self._tell(ended)
                ended = None  # a lane that sleeps must not hold the pictures of its last batch
            if run is not None:
                started = time.perf_counter()
                run.results, run.error = self._run([entry.item for entry in run.entries])
                run.took_s = time.perf_counter() - started
                ended = run
            elif self._crew.is_over:
                return
            else:
                wakeup.acquire()

    def _run(self, items: Sequence[Item]) -> tuple[Sequence[Result], BaseException | None]:
        """Return what came of a batch. Without the run in sight: an error's traceback leads here, and would hold it."""
        try:
            results = list(self._lane.run(items))
            if len(results) != len(items):
                # raised here so that it carries a traceback like any other failure of a run
                raise InferenceError(f"{len(items)} items went in, {len(results)} results came out.")  # noqa: TRY301 - see above
        except BaseException as cause:  # noqa: BLE001 - even SystemExit in a lane must reach those who wait for it
            return [], cause
        return results, None

    def _tell(self, run: Run[Item, Result]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._on_end, run)
        except RuntimeError:
            # The loop was closed under a run that outlived it; so are those who waited.
            _log.warning("lane outlived its event loop", lane=self._name)
            self._queue.abandon()

    def _on_stop(self) -> None:
        self._thread.join()  # this call was its last act
        self.stopped.set_result(None)
