"""A lane: one callable that runs batches, and the one thread that owns it for its whole life."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from jetface.errors import InferenceError
from jetface.threads import Mailbox

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
    takes_ahead: bool = False
    """Whether a full batch may be given to it before its run ends, so that its device does not wait for the event loop
    between two runs. Of use where the device is not the core that the loop needs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunEnd(Generic[Result]):
    """How a run ended: results, one an item, or the error."""

    results: list[Result]
    error: BaseException | None
    took_s: float
    ended_at: float
    """By `time.monotonic`, which is the event loop's clock."""


class LaneThread(Generic[Item, Result]):
    """Runs a lane's batches one after the other and tells the event loop how each ended, in order.

    All methods are called on the event loop's thread; so are the callbacks. The thread is a daemon: a run that never
    ends must not keep the process from ending.
    """

    def __init__(
        self,
        lane: Lane[Item, Result],
        name: str,
        mailbox: Mailbox,
        *,
        on_start: Callable[[LaneThread[Item, Result], BaseException | None], None],
        on_end: Callable[[LaneThread[Item, Result], RunEnd[Result]], None],
        on_stop: Callable[[LaneThread[Item, Result]], None],
    ) -> None:
        self._lane = lane
        self._name = name
        self._mailbox = mailbox
        self._on_start = on_start
        self._on_end = on_end
        self._on_stop = on_stop
        self._batches: queue.SimpleQueue[Sequence[Item] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    @property
    def takes_ahead(self) -> bool:
        """See `Lane.takes_ahead`."""
        return self._lane.takes_ahead

    def post(self, items: Sequence[Item]) -> None:
        """Hand over a batch, for good; `on_end` follows, whatever happens in the run."""
        self._batches.put(items)

    def stop(self) -> None:
        """Close the lane after the batches it was given; `on_stop` follows."""
        self._batches.put(None)

    def join(self) -> None:
        """Wait for the thread; only after `on_stop`, which is its last act."""
        self._thread.join()

    def _live(self) -> None:
        if self._start():
            while (items := self._batches.get()) is not None:
                self._tell(self._on_end, self, self._run(items))
                del items  # an idle lane must not hold the pictures of its last batch
        if self._lane.close is not None:
            try:
                self._lane.close()
            except BaseException as error:  # noqa: BLE001 - nobody above could act on it, and the stop must be told
                _log.error("lane failed to close", lane=self._name, exc_info=error)
        self._tell(self._on_stop, self)

    def _start(self) -> bool:
        """Make what runs need and say whether it could be had; `on_start` follows where there is anything to make."""
        if self._lane.start is None:
            return True
        error: BaseException | None = None
        try:
            self._lane.start()
        except BaseException as cause:  # noqa: BLE001 - as in a run: whoever waits for the lane must be told
            error = cause
        self._tell(self._on_start, self, error)
        return error is None

    def _run(self, items: Sequence[Item]) -> RunEnd[Result]:
        started = time.perf_counter()
        results: list[Result] = []
        error: BaseException | None = None
        try:
            results = list(self._lane.run(items))
            if len(results) != len(items):
                # raised here so that it carries a traceback like any other failure of a run
                raise InferenceError(f"{len(items)} items went in, {len(results)} results came out.")  # noqa: TRY301 - see above
        except BaseException as cause:  # noqa: BLE001 - even SystemExit in a lane must reach those who wait for it
            error = cause
        took_s = time.perf_counter() - started
        return RunEnd(results=results, error=error, took_s=took_s, ended_at=time.monotonic())

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        try:
            self._mailbox.post(callback, *args)
        except RuntimeError:
            # The loop was closed under a run that outlived it; so are those who waited.
            _log.warning("lane outlived its event loop", lane=self._name)
