"""Around every request: its id, its log lines, its metrics, `Server-Timing`, and an answer whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Collection
from http import HTTPStatus

import structlog
from prometheus_client import Counter
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jetface.api.answers import small_answer
from jetface.api.context import TRAILING_BYTES, RequestContext, open_context
from jetface.api.errors import envelope, headers_of, status_of
from jetface.drain import Drain
from jetface.errors import (
    CapacityError,
    DeviceMemoryError,
    MemoryPressureError,
    ModelBuildingError,
    QueueFullError,
    ServiceError,
)
from jetface.histogram import Series
from jetface.logs import request_context
from jetface.metrics import Metrics

_log = structlog.get_logger("jetface.api")

_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}")
"""What an address is written with, and nothing else that a client might make a proxy say."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

CLIENT_GONE_STATUS = 499
"""What is counted when nobody waits for the answer any more (as nginx counts it)."""

NO_SNIFFING = (b"x-content-type-options", b"nosniff")
"""Keeps browsers from taking an answer for another type than it says."""

LINGER_S = 2.0
"""Longest time that the rest of a body is read past after its refusal, for the answer to be read."""

LINGER_BYTES = 2**24
"""Most that is read past."""


_FORESEEN = (CapacityError, ModelBuildingError, MemoryPressureError, DeviceMemoryError)
"""Statuses from 500 on that tell of no fault: a traceback for each would bury those that do."""


class ErrorAnswers:
    """Turns any exception into the envelope; what is not a `ServiceError` goes to the log and stays there."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def send(self, cause: Exception, context: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that failed; when its answer has begun already, only log."""
        error = cause if isinstance(cause, ServiceError) else ServiceError("The service failed; the log says why.")
        status = status_of(type(error))
        self._metrics.refusals.labels(error.code).inc()
        is_foreseen = isinstance(error, _FORESEEN)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not is_foreseen:
            _log.error("request failed", code=error.code, reason=error.message, exc_info=cause)
        elif not isinstance(error, QueueFullError):
            _log.info("request refused", code=error.code, reason=error.message)
        if not context.is_answer_started:
            answer = small_answer(context, envelope(error, context.id), status=status, headers=headers_of(error))
            await answer(scope, receive, send)


class ObserveRequests:
    """The outermost middleware: pure ASGI, no task and no copy of the body."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, errors: ErrorAnswers, drain: Drain, paths: Collection[str]
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._errors = errors
        self._drain = drain
        self._paths = frozenset(paths)
        self._counted: dict[tuple[str, str, int], tuple[Counter, Series]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = open_context(scope)
        status = CLIENT_GONE_STATUS
        lingers = False

        async def send_labelled(message: Message) -> None:
            nonlocal status, lingers
            if message["type"] == "http.response.start":
                context.is_answer_started = True
                status = int(message["status"])
                headers = [*message["headers"], (b"x-request-id", context.id.encode())]
                headers.append((b"server-timing", context.server_timing().encode()))
                headers.append(NO_SNIFFING)
                if context.ignored:
                    headers.append((b"x-ignored", self._tell_ignored(context.ignored)))
                if self._drain.ends_connections or context.must_close:
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            elif context.must_close and not message.get("more_body", False):
                lingers = True
                message = {**message, "more_body": True}
            await send(message)

        with request_context(context.id):
            try:
                await self._app(scope, receive, send_labelled)
            except ClientDisconnect:
                _log.info("client gone")
            except Exception as error:  # noqa: BLE001 - nothing but an envelope may leave the service
                await self._errors.send(error, context, scope, receive, send_labelled)
            self._count(scope, context, status)
        if lingers:
            await _linger(receive, send)

    def _tell_ignored(self, ignored: list[str]) -> bytes:
        """Count and log what was not looked at, and return it as a header says it."""
        for each in ignored:
            self._metrics.ignored.labels("trailing" if each.startswith(TRAILING_BYTES) else "field").inc()
        _log.info("ignored", what=ignored)
        return ", ".join(ignored).encode()

    def _count(self, scope: Scope, context: RequestContext, status: int) -> None:
        route = self._route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        took_s = context.took_s
        counted = self._counted.get((route, method, status))
        if counted is None:
            counted = self._counted[route, method, status] = (
                self._metrics.requests.labels(route, method, str(status)),
                self._metrics.request_seconds.labels(route, str(status)),
            )
        requests, seconds = counted
        requests.inc()
        seconds.observe(took_s)
        if (serialise_s := context.stage_s.get("serialise")) is not None:
            self._metrics.stage_seconds.labels("serialise").observe(serialise_s)
        # Probes and refusals come in numbers; the metrics count them, and `Places` tells of refusals now and then.
        is_plenty = route.startswith(("/health", "/metrics")) or status == HTTPStatus.TOO_MANY_REQUESTS
        log = _log.debug if is_plenty else _log.info
        client = _address(scope)
        log("answered", method=method, route=route, status=status, took_ms=round(took_s * 1e3, 1), client=client)

    def _route(self, scope: Scope) -> str:
        """Return the route's template: labels must not grow with what clients make up."""
        template = getattr(scope.get("route"), "path", None)
        if isinstance(template, str):
            return template
        return scope["path"] if scope["path"] in self._paths else "unmatched"


def _address(scope: Scope) -> str | None:
    """Return the caller's address; None on a socket of this machine, or where a proxy says what is none.

    Behind a proxy that is trusted the server has put what that says in place of the proxy's own.
    """
    host = str((scope.get("client") or ("",))[0])
    return host if _ADDRESS.fullmatch(host) else None


async def _linger(receive: Receive, send: Send) -> None:
    """Let a client that still sends its body read the answer: were the connection closed at once, it might be lost.

    The answer is out, whole by its length; who has read it goes, which ends this.
    """
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_read_past(receive), LINGER_S)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read_past(receive: Receive) -> None:
    num_bytes = 0
    while num_bytes < LINGER_BYTES:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
        num_bytes += len(message.get("body", b""))
