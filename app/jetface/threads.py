"""Work on threads, its way back to the event loop, and the deadlines of those who wait.

What a hop to a thread and back costs, it costs under the interpreter lock. So a call is one object, and all deadlines
share one timer.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import structlog
from typing_extensions import Self

from jetface.errors import DeadlineExceededError, ModelStuckError, ShuttingDownError

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_SHORT_TURN_S = 0.0005
"""Most a thread keeps the interpreter lock from others that ask for it; Python's own value is 5 ms."""


@contextmanager
def short_turns(*, are_wanted: bool) -> Iterator[None]:
    """Let threads pass the interpreter lock on sooner, where wanted.

    For threads that feed a GPU: they let go of the lock in each call to it, and the GPU stands idle while they wait to
    get it back from a busy event loop. On an H200 0.5 ms gave 920 pictures a second instead of 810, by a script that
    is not kept. Where cores compute the graphs it gains nothing, and costs requests under overload.

    Args:
        are_wanted: Otherwise the interpreter's interval stays.
    """
    usual_s = sys.getswitchinterval()
    if are_wanted:
        sys.setswitchinterval(_SHORT_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(usual_s)


class Waiter(Protocol):
    """Who waits for a future; takes weak references."""

    future: asyncio.Future[Any]


WaiterT = TypeVar("WaiterT", bound=Waiter)


class Deadlines(Generic[WaiterT]):
    """Deadlines of many waiters on one timer: a timer for each costs more than most of what they wait for.

    Belongs to one event loop's thread; holds no waiter, and needs no word when one is done.
    """

    def __init__(self, on_late: Callable[[WaiterT], None]) -> None:
        """Watch nobody yet.

        Args:
            on_late: Called with a waiter whose deadline has come and whose future is not done; must not raise.
        """
        self._on_late = on_late
        self._waiters: list[tuple[float, int, weakref.ref[WaiterT]]] = []
        self._counter = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, deadline: float, waiter: WaiterT) -> None:
        """Watch a waiter until `deadline`, by the clock of its future's loop."""
        # Those who are done go when they come first: most deadlines are as far away as the next one, so they soon do.
        while self._waiters and _undone(self._waiters[0][2]) is None:
            heapq.heappop(self._waiters)
        heapq.heappush(self._waiters, (deadline, next(self._counter), weakref.ref(waiter)))
        if self._timer is None or deadline < self._timer.when():
            self._set_timer(waiter.future.get_loop())

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._waiters[0][0], self._ring, loop) if self._waiters else None

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        # The loop calls what is due within its clock's resolution, which may be a little early.
        now = max(loop.time(), self._timer.when() if self._timer else 0.0)
        while self._waiters:
            deadline, _, reference = self._waiters[0]
            waiter = _undone(reference)
            if waiter is not None and deadline > now:
                break
            heapq.heappop(self._waiters)
            if waiter is not None:
                self._on_late(waiter)
        self._set_timer(loop)


def _undone(reference: weakref.ref[WaiterT]) -> WaiterT | None:
    waiter = reference()
    return None if waiter is None or waiter.future.done() else waiter


class Threads:
    """A few threads for calls that release the interpreter lock, made as they are needed.

    Methods are called on an event loop's thread. The threads are daemons: a call that never ends must not keep the
    process from ending.
    """

    def __init__(self, num_threads: int, name: str) -> None:
        """Create a pool; no thread is started yet.

        Args:
            num_threads: At most, >= 1.
            name: For the threads.
        """
        self._num_threads = num_threads
        self._name = name
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deadlines: Deadlines[_Call[Any]] = Deadlines(_Call.expire)
        self._is_closed = False

    async def call(
        self, function: Callable[[], T], *, deadline: float | None = None, on_failure: Callable[[], None] | None = None
    ) -> T:
        """Call `function` on a thread and wait for it.

        A call that has not begun when its caller is cancelled or late never begins; one that has begun cannot be
        stopped, and goes on without its caller.

        Args:
            function: What to call.
            deadline: `loop.time()` after which the result is of no use; None waits as long as it takes.
            on_failure: Called on the loop, once, if no result is returned; not before the call has ended.

        Returns:
            What `function` returned.

        Raises:
            DeadlineExceededError: The deadline passed.
            ShuttingDownError: The pool takes no more calls.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # the first, or another one: it needs a timer of its own
            self._loop, self._deadlines = loop, Deadlines(_Call.expire)
        call = _Call(function, loop, on_failure)
        try:
            self._post(call, deadline)
            if deadline is not None:
                self._deadlines.add(deadline, call)
            return await call.future
        except BaseException:
            call.leave()
            raise

    def close(self) -> None:
        """Refuse what has not begun, and let the threads end. A second call does no harm."""
        self._is_closed = True
        while not self._calls.empty():
            with suppress(queue.Empty):  # a thread was quicker
                call = self._calls.get_nowait()
                if call is not None:
                    call.refuse()
        for _ in self._threads:
            self._calls.put(None)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close, and wait for the calls that have begun."""
        self.close()
        for thread in self._threads:
            thread.join()

    def _post(self, call: _Call[Any], deadline: float | None) -> None:
        if self._is_closed:
            raise _shutting_down()
        if deadline is not None and call.future.get_loop().time() >= deadline:
            raise _too_late()
        self._calls.put(call)
        if len(self._threads) < self._num_threads:
            name = f"{self._name}_{len(self._threads)}"
            thread = threading.Thread(target=self._live, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)  # only now: where none can be started, the next call tries again

    def _live(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            del call  # an idle thread must not hold the picture of its last call


class SlowWork:
    """Work of seconds to minutes on models: a thread a call, so many at a time, and a watchdog.

    Belongs to one event loop. The threads are daemons: work that hangs in a library or on a network must not keep the
    process from ending.
    """

    _TELL_EVERY_S = 60.0

    def __init__(self, what: str, *, most: int, timeout_s: float) -> None:
        """Create a place for work; no thread is started yet.

        Args:
            what: What is done here, for people: `opening`.
            most: Calls at a time, >= 1; others wait for their turn.
            timeout_s: Seconds after which a call is taken to hang. Its turn goes to the next then.
        """
        self._what = what
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(most)
        self._hanging: set[str] = set()
        self._is_closed = False

    async def call(self, function: Callable[[], T], *, model: str, begun: Callable[[], None] | None = None) -> T:
        """Call `function` on a thread and wait for it.

        A caller that is cancelled leaves the call to itself: nothing can stop it.

        Args:
            function: What to call.
            model: What it is about.
            begun: Called when its turn has come.

        Raises:
            ModelStuckError: It hangs, or an earlier call for the same model still does.
            ShuttingDownError: The place is closed.
        """
        async with self._turns:
            if self._is_closed:
                raise _shutting_down()
            if model in self._hanging:
                raise ModelStuckError(f"The {self._what} of model {model} hangs; the process has to be restarted.")
            if begun is not None:
                begun()
            return await self._watch(self._start(function, model), model)

    def close(self) -> None:
        """Begin no more calls."""
        self._is_closed = True

    def _start(self, function: Callable[[], T], model: str) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(settle_future: Callable[[], None]) -> None:
            self._hanging.discard(model)
            if not future.done():
                settle_future()

        def run() -> None:
            try:
                settle_future = partial(future.set_result, function())
            except StopIteration as cause:
                settle_future = partial(future.set_exception, RuntimeError(repr(cause)))
            except BaseException as cause:  # noqa: BLE001 - even SystemExit must reach whoever waits
                settle_future = partial(future.set_exception, cause)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, settle_future)

        threading.Thread(target=run, name=f"{self._what} {model}", daemon=True).start()
        return future

    async def _watch(self, future: asyncio.Future[T], model: str) -> T:
        started = time.monotonic()
        while not future.done():
            left_s = started + self._timeout_s - time.monotonic()
            if left_s <= 0:
                self._hanging.add(model)
                future.cancel()
                _log.error(
                    "work on a model hangs and is given up", work=self._what, model=model, after_s=self._timeout_s
                )
                raise ModelStuckError(
                    f"The {self._what} of model {model} has taken more than {self._timeout_s:g} s and hangs."
                )
            await asyncio.wait([future], timeout=min(left_s, self._TELL_EVERY_S))
            if not future.done():
                _log.warning(
                    "work on a model is slow", work=self._what, model=model, s=round(time.monotonic() - started)
                )
        return future.result()


class _Call(Generic[T]):
    """One call on its way. All methods but `run` belong to the loop's thread."""

    __slots__ = ("__weakref__", "_has_ended", "_is_left", "_loop", "_on_failure", "_to_run", "future")

    def __init__(
        self, function: Callable[[], T], loop: asyncio.AbstractEventLoop, on_failure: Callable[[], None] | None
    ) -> None:
        self.future: asyncio.Future[T] = loop.create_future()
        self._loop = loop
        self._on_failure = on_failure
        # Whoever takes it out decides: a thread, that it is run; the loop, that it never is.
        self._to_run = [function]
        self._has_ended = False
        self._is_left = False

    def run(self) -> None:
        """Make the call, unless it was withdrawn; on a thread of the pool."""
        try:
            function = self._to_run.pop()
        except IndexError:
            return
        result: T | None = None
        error: BaseException | None = None
        try:
            result = function()
        except StopIteration as cause:
            error = RuntimeError("a call raised StopIteration, which no future takes")
            error.__cause__ = cause
        except BaseException as cause:  # noqa: BLE001 - even SystemExit must reach whoever waits
            error = cause
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._end, result, error)
        del error  # its traceback leads to this frame: a cycle

    def leave(self) -> None:
        """Give back what the call holds: now if it has ended or never begins, else when it ends."""
        if self._to_run:
            with suppress(IndexError):  # a thread was quicker
                self._to_run.pop()
                self._has_ended = True
        if self.future.done() and not self.future.cancelled():
            self.future.exception()  # read, also where the caller was cancelled just after it was set
        self._is_left = True
        self._give_back()

    def expire(self) -> None:
        """Tell the caller that it is too late; only while it waits."""
        self.future.set_exception(_too_late())

    def refuse(self) -> None:
        """Tell the caller that the call will not be made; on any thread."""
        with suppress(IndexError, RuntimeError):  # withdrawn already; the loop is closed
            self._to_run.pop()
            self._loop.call_soon_threadsafe(self._end, None, _shutting_down())

    def _end(self, result: Any, error: BaseException | None) -> None:
        self._has_ended = True
        if self._is_left:
            self._give_back()
        elif not self.future.done():
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)

    def _give_back(self) -> None:
        if self._has_ended and self._on_failure is not None:
            self._on_failure()


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("The deadline passed before the work on the picture was done.")


def _shutting_down() -> ShuttingDownError:
    return ShuttingDownError("The service is shutting down.", retry_after_s=1.0)
