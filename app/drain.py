"""The end of a process: what is in flight is answered, what comes new is refused, then the server stops.

A server that is told to stop closes its listening socket at once, so a new caller is refused a connection and cannot
know why. `Drain` stands between SIGTERM and the server: the socket stays open and new requests get
`ShuttingDownError` until the last request in flight is answered or the grace is over; then the server is told.

The order of events, for the composition root:

    with drain.listening():    inside the lifespan: uvicorn has set its own handlers by then
        yield                  drain.is_draining: readiness says no, answers carry `Connection: close`
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType

import structlog

from app.errors import ShuttingDownError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

SERVER_GRACE_S = 1
"""What uvicorn is given, after our own drain, to flush the last bytes: its `--timeout-graceful-shutdown`."""

_OVERHEAD_S = 0.5
"""Uvicorn looks at its exit flag every 0.1 s and closes sockets for another 0.1 s; the rest closes the models."""


class Drain:
    """Counts requests in flight and delays the server's stop until they are answered.

    Lives on the event loop's thread, which is the main thread wherever signals are handled.
    """

    def __init__(self, grace_s: float, *, on_expiry: Callable[[], Awaitable[None]] | None = None) -> None:
        """Create a drain that has not begun.

        Args:
            grace_s: Seconds from the signal to the end of the process, > 0.
            on_expiry: Awaited when the grace is nearly over and requests are still in flight: it makes them fail with
                `ShuttingDownError`, so that their callers get an answer and not a reset connection.
        """
        self._on_expiry = on_expiry
        self._wait_s = max(grace_s - SERVER_GRACE_S - _OVERHEAD_S, grace_s / 2)
        self._num_in_flight = 0
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("jetface.drain")

    @property
    def is_draining(self) -> bool:
        """Whether the process is about to end; never goes back to False."""
        return self._is_draining

    @property
    def num_in_flight(self) -> int:
        """Requests inside `serving`."""
        return self._num_in_flight

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Hold the process alive while a request is answered, its last byte included.

        Raises:
            ShuttingDownError: The drain has begun.
        """
        if self._is_draining:
            raise ShuttingDownError("The service is shutting down.", retry_after_s=1)
        self._num_in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._num_in_flight -= 1
            if not self._num_in_flight:
                self._idle.set()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT from the server while inside; without a server or off the main thread, do nothing.

        Must be entered on the event loop's thread, after the server has set its handlers.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        stop_server = signal.getsignal(signal.SIGTERM)
        if not callable(stop_server):
            yield
            return
        loop = asyncio.get_running_loop()

        def stop() -> None:
            # As SIGINT: uvicorn raises the signal it was stopped by once more when it is done, and a process that
            # ends by SIGTERM reports 143; an interrupt ends in exit code 0.
            stop_server(signal.SIGINT, None)

        def on_signal(number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.begin, stop, signal.Signals(number).name)

        previous = {number: signal.signal(number, on_signal) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def begin(self, stop: Callable[[], None], reason: str) -> None:
        """Refuse new requests from now on, and call `stop` when none is in flight or the grace is over.

        A second call stops waiting: `stop` is called at once.

        Args:
            stop: Ends the server.
            reason: For the log.
        """
        if self._task is not None:
            self._log.warning("told to stop again: waiting no longer", reason=reason, in_flight=self._num_in_flight)
            self._task.cancel()
            stop()
            return
        self._is_draining = True
        self._log.info("draining", reason=reason, in_flight=self._num_in_flight, wait_s=self._wait_s)
        self._task = asyncio.get_running_loop().create_task(self._wait_then(stop))

    async def _wait_then(self, stop: Callable[[], None]) -> None:
        try:
            await asyncio.wait_for(self._idle.wait(), self._wait_s)
        except asyncio.TimeoutError:
            self._log.warning("grace is over with requests in flight", in_flight=self._num_in_flight)
            if self._on_expiry is not None:
                await self._on_expiry()
        stop()
