"""Who may come in: decided from the headers alone, before a byte of the body is read."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Sequence

from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from jetface.api.answers import JSON_TYPE, MSGPACK_TYPE, to_json, to_msgpack
from jetface.api.context import RequestContext, context_in, open_context
from jetface.api.errors import envelope, headers_of
from jetface.api.middleware import NO_SNIFFING
from jetface.api.places import Places
from jetface.api.services import Access
from jetface.drain import Drain
from jetface.errors import BodyTooLargeError, QueueFullError, RequestError, ServiceError, UnauthorizedError
from jetface.histogram import Series
from jetface.metrics import Metrics

_BEARER = "bearer "


class Door:
    """Checks the API key, then the declared length of the body."""

    def __init__(self, app: ASGIApp, *, access: Access, max_body_bytes: int) -> None:
        self._app = app
        self._access = access
        self._max_body_bytes = max_body_bytes
        self._digests = [_digest(key) for key in access.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or raise.

        Raises:
            UnauthorizedError: No key, or a wrong one.
            BodyTooLargeError: The declared body is too long.
        """
        if scope["type"] == "http":
            self.check(context_in(scope), scope["path"])
        await self._app(scope, receive, send)

    def check(self, context: RequestContext, path: str) -> None:
        """Let a request in, or raise as the call does; note in its context what body is to come."""
        declared = context.header(b"content-length")
        context.is_body_read = declared in (None, "0") and b"transfer-encoding" not in context.headers
        if self._digests and not self._is_open(path):
            self._check_key(context)
        context.body_bytes = self._declared_bytes(declared)

    def _is_open(self, path: str) -> bool:
        return path in self._access.open_paths or path.startswith(self._access.open_prefixes)

    def _check_key(self, context: RequestContext) -> None:
        authorization = context.header(b"authorization") or ""
        bearer = authorization[len(_BEARER) :] if authorization[: len(_BEARER)].lower() == _BEARER else ""
        given = _digest(context.header(b"x-api-key") or bearer)
        # Every key is compared, so that the time taken does not tell which one nearly fitted.
        if not any([hmac.compare_digest(given, digest) for digest in self._digests]):  # noqa: C419 - no short cut
            raise UnauthorizedError("An API key is needed: `Authorization: Bearer KEY` or `x-api-key: KEY`.")

    def _declared_bytes(self, declared: str | None) -> int | None:
        """Return the length of the body; None when it is not declared."""
        if declared is None:
            return None
        if not (declared.isascii() and declared.isdigit()):
            raise RequestError("The Content-Length header is not a number.")
        if len(declared) > 18 or int(declared) > self._max_body_bytes:
            raise BodyTooLargeError("The body is too long.", max_body_bytes=self._max_body_bytes)
        return int(declared)


class QuickRefusals:
    """Refuses at once what the places would refuse: under overload most requests are, and the way there costs most.

    The answer is what the application would give, without a task, a scope and all that stands around the framework.
    What is not quite ordinary is left to the application.
    """

    def __init__(
        self,
        door: Door,
        *,
        places: Places,
        drain: Drain,
        metrics: Metrics,
        routes: Collection[str],
        root_path: str,
        has_cors: bool,
    ) -> None:
        """Take what decides, and what counts.

        Args:
            door: Knows who may come in.
            places: Refuse.
            drain: Once it has begun, everybody is refused in other words.
            metrics: Count what is refused.
            routes: Paths of what takes a place.
            root_path: Where a proxy serves them; empty: as they are.
            has_cors: Answers to browsers carry more.
        """
        self._door = door
        self._places = places
        self._drain = drain
        self._metrics = metrics
        self._counted: dict[str, tuple[Counter, Counter, Series]] = {}
        self._routes = {f"{root}{route}".encode(): route for route in routes for root in {"", root_path}}
        self._unusual = {b"expect", b"transfer-encoding", *([b"origin"] if has_cors else [])}

    def answer(self, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        """Return headers and body of the answer to a POST; None where the application is to answer.

        Args:
            url: Path and query.
            headers: With names in lower case.
        """
        if self._places.num_taken < self._places.limit or self._drain.is_draining:
            return None
        route = self._routes.get(url.partition(b"?")[0])
        context = open_context({"headers": headers})
        if route is None or not self._unusual.isdisjoint(context.headers):
            return None
        try:
            self._door.check(context, route)
        except ServiceError:
            return None
        if context.must_close:
            return None
        try:
            self._places.check()
        except QueueFullError as error:
            return self._written(error, context, route)
        return None

    def _written(self, error: QueueFullError, context: RequestContext, route: str) -> bytes:
        said = envelope(error, context.id)
        body = to_msgpack(said) if context.wants_msgpack else to_json(said)
        self._count(error.code, route, context.took_s)
        headers = [
            *headers_of(error).items(),
            ("content-length", str(len(body))),
            ("content-type", MSGPACK_TYPE if context.wants_msgpack else JSON_TYPE),
            ("x-request-id", context.id),
            ("server-timing", context.server_timing()),
            tuple(part.decode() for part in NO_SNIFFING),
        ]
        return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode() + b"\r\n" + body

    def _count(self, code: str, route: str, took_s: float) -> None:
        counted = self._counted.get(route)
        if counted is None:
            metrics = self._metrics
            counted = self._counted[route] = (
                metrics.refusals.labels(code),
                metrics.requests.labels(route, "POST", "429"),
                metrics.request_seconds.labels(route, "429"),
            )
        refusals, requests, seconds = counted
        refusals.inc()
        requests.inc()
        seconds.observe(took_s)


def _digest(key: str) -> bytes:
    """Hash a key without the blanks around it: what is kept cannot be used, and all compared have one length."""
    return hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
