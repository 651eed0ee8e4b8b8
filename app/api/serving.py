"""A request that costs work: it takes a place, has a deadline, and ends when its client goes."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.context import RequestContext, context_in
from app.api.middleware import ErrorAnswers
from app.api.places import Places, shutting_down
from app.api.services import RequestLimits
from app.drain import Drain
from app.errors import DeadlineExceededError, RequestError, RequestTimeoutError

TIMEOUT_HEADER = "x-request-timeout-ms"
"""Header by which a client shortens its deadline."""

_CANCEL_AGAIN_S = 1.0
"""After this long, more than any handler takes to clean up, a cancellation is taken to be lost."""


class ServeWithinLimits:
    """Serves POST requests within places, deadline and drain; all other methods pass."""

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
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        context = context_in(scope)
        with self._drain.serving():
            self._places.check()
            try:
                await self._serve(scope, receive, send, context)
            except ClientDisconnect:
                raise
            except Exception as error:  # noqa: BLE001 - answered here: the drain waits for the last byte
                await self._errors.send(error, context, scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, context: RequestContext) -> None:
        """Run the handler in a task of its own, beside one that waits for the client to go.

        Raises:
            RequestTimeoutError: The deadline passed and the body is not there yet.
            DeadlineExceededError: The deadline passed.
            ShuttingDownError: The request was given up.
        """
        loop = asyncio.get_running_loop()
        timeout_s = min(self._limits.timeout_s, _wanted_timeout_s(Headers(scope=scope)))
        context.deadline = loop.time() + timeout_s
        context.body_bytes = None  # from here on, a body that is left unread is one that does not come
        body = _Body(receive, context, stall_s=self._limits.stall_s)
        handler = loop.create_task(_run(self._app, scope, body, send))
        gone = loop.create_task(body.wait_for_disconnect())
        with self._places.taken_by(handler):
            try:
                await asyncio.wait({handler, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                is_late = not handler.done() and not gone.done()
            finally:
                await _end({handler, gone})
            if self._places.is_abandoned(handler) and handler.cancelled():
                raise shutting_down()
        if not handler.cancelled():
            handler.result()
        elif not is_late:
            raise ClientDisconnect
        elif not context.is_body_read:
            raise RequestTimeoutError("The body did not arrive in time.")
        else:
            raise DeadlineExceededError("The request's deadline passed.", timeout_ms=round(timeout_s * 1e3))


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: before Python 3.12 `asyncio.wait_for` may lose a cancellation."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_S)


async def _run(app: ASGIApp, scope: Scope, body: _Body, send: Send) -> None:
    await app(scope, body.receive, send)


class _Body:
    """The messages of a request's body, with a limit to the silence between them."""

    def __init__(self, receive: Receive, context: RequestContext, *, stall_s: float) -> None:
        self._receive = receive
        self._context = context
        self._stall_s = stall_s
        self._is_read = asyncio.Event()

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            RequestTimeoutError: None came in time.
        """
        try:
            message = await asyncio.wait_for(self._receive(), self._stall_s)
        except asyncio.TimeoutError:
            raise RequestTimeoutError("The body stopped arriving.") from None
        if not message.get("more_body", False):
            self._context.is_body_read = True
            self._is_read.set()
        return message

    async def wait_for_disconnect(self) -> None:
        """Return when the client is gone. Only after the body: until then the handler reads the messages."""
        await self._is_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _wanted_timeout_s(headers: Headers) -> float:
    """Return the deadline a client asks for, infinite when it names none.

    Raises:
        RequestError: Not a positive whole number.
    """
    wanted = headers.get(TIMEOUT_HEADER)
    if wanted is None:
        return float("inf")
    if not (wanted.isascii() and wanted.isdigit() and len(wanted) <= 18 and int(wanted) > 0):
        raise RequestError(f"The {TIMEOUT_HEADER} header is a positive whole number of milliseconds.")
    return int(wanted) / 1e3
