"""The end of a process: what is in flight is answered, what comes new is refused, then the server stops.

A server that is told to stop closes its listening socket at once, so a new caller is refused a connection and cannot
know why. `Drain` stands between SIGTERM and the server: the socket stays open and new requests get
`ShuttingDownError` until the last request in flight is answered or the grace is over; then the server is told. A worker
that another one replaces retires instead: it takes no new connection and goes on answering on those it has.

The order of events, for the composition root:

    with drain.listening():    inside the lifespan: uvicorn has set its own handlers by then
        yield                  drain.is_draining: readiness says no, answers carry `Connection: close`
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, Protocol

import structlog

from jetface.errors import ShuttingDownError

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What drains. SIGHUP only where it would end the process otherwise, without a word to anybody."""

SERVER_GRACE_S = 1
"""What uvicorn is given, after our own drain, to flush the last bytes: its `--timeout-graceful-shutdown`."""

_OVERHEAD_S = 0.5
"""Uvicorn looks at its exit flag every 0.1 s and closes sockets for another 0.1 s; the rest closes the models."""

IMPATIENT_AFTER_S = 2.0
"""A signal that follows the first sooner than this is the same one: sent to a whole group, or by two supervisors."""

_ACCEPTED_BY_THEN_S = 0.3
"""A connection that was accepted when its socket was closed is counted among the server's by then."""


class Server(Protocol):
    """What is needed of a running uvicorn.Server to retire it."""

    servers: list[asyncio.base_events.Server]
    server_state: Any
    """Has its `connections`."""


class Drain:
    """Counts requests in flight and delays the server's stop until they are answered.

    Lives on the event loop's thread, which is the main thread wherever signals are handled.
    """

    def __init__(self, grace_s: float, *, on_expiry: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
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
        self._is_retiring = False
        self._began_at = 0.0
        self._is_over = False
        self._stop_server: Callable[[], None] = lambda: None
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("jetface.server.drain")

    @property
    def is_draining(self) -> bool:
        """Whether the process is about to end; never goes back to False."""
        return self._is_draining

    @property
    def ends_connections(self) -> bool:
        """Whether each connection ends with its next answer."""
        return self._is_draining or self._is_retiring

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
        """Take the signals that end a server while inside; without a server or off the main thread, do nothing.

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
            # In a context of its own: it says nothing of the request that it came amid.
            name = signal.Signals(number).name
            loop.call_soon_threadsafe(self.begin, stop, name, context=contextvars.Context())

        self._stop_server = stop
        taken = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, on_signal) for number in taken}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def begin(self, stop: Callable[[], None], reason: str) -> None:
        """Refuse new requests from now on, and call `stop` when none is in flight or the grace is over.

        A second call that comes seconds later ends the wait: what is in flight is told so, and `stop` is called. One
        that comes sooner is taken for the first.

        Args:
            stop: Ends the server.
            reason: For the log.
        """
        now = time.monotonic()
        if self._task is None:
            self._is_draining = True
            self._began_at = now
            self._log.info("draining", reason=reason, in_flight=self._num_in_flight, wait_s=self._wait_s)
            self._task = asyncio.get_running_loop().create_task(self._wait_then(stop))
        elif now - self._began_at >= IMPATIENT_AFTER_S and not self._is_over:
            self._is_over = True
            self._log.warning("told to stop again: waiting no longer", reason=reason, in_flight=self._num_in_flight)
            self._task.cancel()
            self._task = asyncio.get_running_loop().create_task(self._give_up_then(stop))

    def retire(self, server: Server) -> None:
        """Take no new connection, go on answering on those that are open, and stop the server when the last has gone.

        For a server whose listening sockets others listen on as well. Each answer closes its connection; one on which
        nothing comes is closed when the grace is over, and what is in flight then is drained.
        """
        if self.ends_connections:
            return
        self._is_retiring = True
        for listener in server.servers:
            listener.close()
        self._log.info("retiring", connections=len(server.server_state.connections))
        self._retirement = asyncio.get_running_loop().create_task(self._outlast(server))

    async def _outlast(self, server: Server) -> None:
        ends_at = time.monotonic() + self._wait_s
        await asyncio.sleep(_ACCEPTED_BY_THEN_S)
        while server.server_state.connections and time.monotonic() < ends_at:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.05)
        self.begin(self._stop_server, "retired")

    async def _wait_then(self, stop: Callable[[], None]) -> None:
        try:
            await asyncio.wait_for(self._idle.wait(), self._wait_s)
        except asyncio.TimeoutError:
            self._log.warning("grace is over with requests in flight", in_flight=self._num_in_flight)
            self._is_over = True
            await self._give_up_then(stop)
        else:
            self._is_over = True
            stop()

    async def _give_up_then(self, stop: Callable[[], None]) -> None:
        if self._on_expiry is not None:
            with contextlib.suppress(asyncio.TimeoutError):  # the server gives the last bytes another second
                await asyncio.wait_for(self._on_expiry(), _OVERHEAD_S)
        stop()  # once: uvicorn takes a second call for an order to drop everything
