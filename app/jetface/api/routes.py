"""The steps that every route takes: arrive, take a place, have a deadline, end when the client goes."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any, cast

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jetface.api.requests import RequestLimits
from jetface.errors import DeadlineExceededError, RequestError, RequestTimeoutError
from jetface.models.store import STEP_ASIDE
from jetface.server.context import RequestContext, context_in
from jetface.server.drain import Drain
from jetface.server.limits import Places
from jetface.server.middleware import ErrorAnswers
from jetface.server.protocol import WHEN_GONE

TIMEOUT_HEADER = "x-request-timeout-ms"
"""Header by which a client shortens its deadline."""

_WORKING_METHODS = frozenset({"POST", "PATCH", "PUT", "DELETE"})
_TIMEOUT_KEY = TIMEOUT_HEADER.encode()

_CANCEL_AGAIN_S = 1.0
"""After this long, more than any handler takes to clean up, a cancellation is taken to be lost."""


class ServeWithinLimits:
    """Serves what costs work or changes something within places, deadline and drain; reading methods pass."""

    def __init__(
        self, app: ASGIApp, *, drain: Drain, places: Places, limits: RequestLimits, errors: ErrorAnswers
    ) -> None:
        self._app = app
        self._drain = drain
        self._places = places
        self._limits = limits
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            ShuttingDownError: The process drains.
            QueueFullError: No place is free.
            ClientDisconnect: The client went; its work is cancelled.
        """
        if scope["type"] != "http" or scope["method"] not in _WORKING_METHODS:
            await self._app(scope, receive, send)
            return
        context = context_in(scope)
        with self._drain.serving():
            self._places.check()
            try:
                timeout_s = min(self._limits.timeout_s, _wanted_timeout_s(context))
                exchange = _Exchange(scope, receive, context, self._places, self._limits, timeout_s)
                with self._places.held_by(exchange):
                    await exchange.run(self._app, send)
            except ClientDisconnect:
                raise
            except Exception as error:  # noqa: BLE001 - answered here: the drain waits for the last byte
                await self._errors.send(error, context, scope, receive, send)


class _Exchange:
    """A request and its answer, in the task that it came in.

    Whatever ends it early, a timer or the client that goes, says why and cancels the task: it takes no task of its own
    to wait for that. A client has some patience to use up while its body is waited for, and earns more by what it
    sends: who falls below the least rate for long, however regularly, runs out of it.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        context: RequestContext,
        places: Places,
        limits: RequestLimits,
        timeout_s: float,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._context = context
        self._places = places
        self._limits = limits
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._cause: Exception | None = None
        self._patience_s = limits.stall_s
        self._has_body = False
        self.stalls_at = float("inf")
        self._timer: asyncio.TimerHandle | None = None
        self._when_gone = (scope.get("extensions") or {}).get(WHEN_GONE)
        self._watcher: asyncio.Task[None] | None = None
        context.deadline = self._loop.time() + timeout_s
        context.end = self.end
        context.body_bytes = None  # from here on, a body that is left unread is one that does not come

    @property
    def held_bytes(self) -> int:
        """What the body has of the budget for bytes."""
        return self._context.held_bytes()

    async def run(self, app: ASGIApp, send: Send) -> None:
        """Serve.

        Raises:
            RequestTimeoutError: The body stopped arriving, came too slowly, or was not there by the deadline.
            QueueFullError: No place was free when it was there.
            DeadlineExceededError: The deadline passed.
            ShuttingDownError: The request was given up.
            ClientDisconnect: The client went.
        """
        self._look()
        STEP_ASIDE.set(partial(self._places.step_aside, self))
        try:
            if self._context.is_body_read:  # there is none, and the handler may not ask for it
                self._places.take(self)
            await app(self._scope, self.receive, send)
        except asyncio.CancelledError:
            if self._cause is None:
                raise
            raise self._cause from None
        finally:
            self._close()

    async def receive(self) -> Message:
        """Return the next message of the body; with the last comes the place.

        Raises:
            QueueFullError: No place is free.
        """
        self.stalls_at = stalls_at = self._loop.time() + self._patience_s
        message = await self._receive()
        self.stalls_at = float("inf")
        if message.get("more_body", False):
            earned_s = len(message["body"]) / self._limits.min_bytes_per_s
            self._patience_s = min(stalls_at - self._loop.time() + earned_s, self._limits.stall_s)
            return message
        if not self._has_body and message["type"] == "http.request":
            self._has_body = self._context.is_body_read = True
            self._places.take(self)
            self._watch_client()
        return message

    def end(self, cause: Exception) -> None:
        """Make the request fail: its task is cancelled.

        Again and again: before Python 3.12 `asyncio.wait_for` may lose a cancellation.
        """
        self._cause = self._cause or cause
        self._task.cancel()
        self._stop_timer()
        self._timer = self._loop.call_later(_CANCEL_AGAIN_S, self.end, cause)

    def _look(self) -> None:
        """End what is late; else look again when it may be."""
        now, deadline = self._loop.time(), self._context.deadline
        if now >= deadline and not self._context.is_body_read:
            self.end(RequestTimeoutError("The body did not arrive in time."))
        elif now >= deadline:
            self.end(DeadlineExceededError("The request's deadline passed.", timeout_ms=round(self._timeout_s * 1e3)))
        elif now >= self.stalls_at:
            floor = self._limits.min_bytes_per_s
            self.end(RequestTimeoutError("The body stopped arriving, or came too slowly.", min_bytes_per_s=floor))
        else:
            stalls_at = deadline if self._has_body else min(self.stalls_at, now + self._patience_s)
            self._timer = self._loop.call_at(min(deadline, stalls_at), self._look)

    def _watch_client(self) -> None:
        """Learn when the client goes. Only after the body: until then its messages tell."""
        if self._when_gone is not None:
            self._when_gone["call"](self._end_as_gone)
        else:
            self._watcher = self._loop.create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        """Ask a server that is not ours."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end_as_gone()

    def _end_as_gone(self) -> None:
        self.end(ClientDisconnect())

    def _close(self) -> None:
        """From here on nothing cancels the task but those outside."""
        if self._context.at_end is not None:
            self._context.at_end()
        self._stop_timer()
        if self._when_gone is not None:
            self._when_gone["call"](None)
        if self._watcher is not None:
            self._watcher.cancel()
        if sys.version_info >= (3, 11) and self._cause is not None:
            while self._task.cancelling():
                self._task.uncancel()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _wanted_timeout_s(context: RequestContext) -> float:
    """Return the deadline a client asks for, infinite when it names none.

    Raises:
        RequestError: Not a positive whole number.
    """
    wanted = context.header(_TIMEOUT_KEY)
    if wanted is None:
        return float("inf")
    if not (wanted.isascii() and wanted.isdigit() and len(wanted) <= 18 and int(wanted) > 0):
        raise RequestError(f"The {TIMEOUT_HEADER} header is a positive whole number of milliseconds.")
    return int(wanted) / 1e3
