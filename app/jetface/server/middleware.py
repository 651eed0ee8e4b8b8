"""Around every request: its route, its id, its log lines, its metrics, and an answer whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import Collection, Iterable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from fastapi.routing import APIRoute
from prometheus_client import Counter
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jetface.errors import (
    CapacityError,
    DeviceMemoryError,
    MemoryPressureError,
    ModelBuildingError,
    QueueFullError,
    ServiceError,
    told,
)
from jetface.logs import masked, request_context
from jetface.metrics import Metrics, Series
from jetface.server.context import PROBES, TRAILING_BYTES, RequestContext, context_in, open_context
from jetface.server.drain import Drain
from jetface.server.encoding import envelope, headers_of, small_answer, status_of

if TYPE_CHECKING:
    from jetface.server.tracing import Tracing

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
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        errors: ErrorAnswers,
        drain: Drain,
        paths: Collection[str],
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._errors = errors
        self._drain = drain
        self._paths = frozenset(paths)
        self._begin_span = tracing.begin if tracing else _begin_no_span
        self._counted: dict[tuple[str, str, int], tuple[Counter, Series]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, partial(_send_start, send))
            return
        context = open_context(scope)
        self._begin_span(context, scope["path"])
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

        with request_context(context.id, context.trace_id):
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
        is_plenty = route.startswith(PROBES) or status == HTTPStatus.TOO_MANY_REQUESTS
        log = _log.debug if is_plenty else _log.info
        client = _address(scope)
        log("answered", method=method, route=route, status=status, took_ms=round(took_s * 1e3, 1), client=client)
        if context.end_span is not None:
            context.end_span(method, route, status)

    def _route(self, scope: Scope) -> str:
        """Return the route's template: labels must not grow with what clients make up."""
        template = getattr(scope.get("route"), "path", None)
        if isinstance(template, str):
            return template
        return scope["path"] if scope["path"] in self._paths else "unmatched"


def _begin_no_span(_context: RequestContext, _path: str) -> None:
    pass


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


async def _send_start(send: Send, message: Message) -> None:
    """Pass on how the application's start went; of what is foreseen to fail, a sentence in place of the traceback."""
    error = sys.exc_info()[1]
    if message["type"] == "lifespan.startup.failed" and isinstance(error, ServiceError):
        message = {**message, "message": masked(f"The service cannot start: {told(error)}")}
    await send(message)


class OwnPath:
    """Serves `/extract/` as `/extract`; and where a proxy serves the service as `/faces`, `/faces/extract` too.

    The framework would answer the first with a redirect to whatever host the client's `Host` header names. Outermost,
    so that whoever decides by the path, decides by the one that is served: a probe needs no key below a path either.
    """

    def __init__(self, app: ASGIApp, *, root_path: str, paths: Collection[str]) -> None:
        """Take what is passed on to.

        Args:
            app: What serves the service's own paths.
            root_path: Where a proxy serves them, such as `/faces`; empty: as they are.
            paths: The service's own, which come as they are where the proxy takes `root_path` off.
        """
        self._app = app
        self._root_path = root_path
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on by its own path."""
        if scope["type"] == "http":
            path = scope["path"]
            if path.endswith("/"):
                path = path[:-1] or "/"
            if self._root_path and path not in self._paths and (path + "/").startswith(self._root_path + "/"):
                path = path[len(self._root_path) :] or "/"
            scope["path"] = path
        await self._app(scope, receive, send)


class BelowRootPath:
    """Tells the framework of `root_path`, and the path as it then expects it: with that before it."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own_path = scope["path"]
        scope["path"], scope["root_path"] = self._root_path + own_path, self._root_path
        try:
            await self._app(scope, receive, send)
        finally:
            scope["path"] = own_path


class HeadAsGet:
    """Answers `HEAD` as `GET`, without the body: what probes and link checkers send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; status and headers come back, `Content-Length` among them."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        context_in(scope).is_head = True
        # A copy: the server goes by its own method when it counts what is sent.
        asked = {**scope, "method": "GET"}
        try:
            await self._app(asked, receive, send_head)
        finally:
            if "route" in asked:
                scope["route"] = asked["route"]


class DirectRoutes:
    """Calls functions that take a request and return a response by themselves; everything else is the framework's.

    The framework has the same routes, for its description of them; for them it would match every route, solve
    dependencies and keep stacks of files to close, of which these functions have none.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[APIRoute]) -> None:
        """Take what is served directly, and what all else is left to.

        Args:
            app: The framework's application.
            routes: Each of a path without parameters, whose function takes the request alone and is a coroutine.
        """
        self._app = app
        self._routes = {(method, route.path): route for route in routes for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
