"""Admission: who may come in, and how many requests are received and served at once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import heapq
import hmac
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol

import structlog
from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from jetface.errors import (
    BodyTooLargeError,
    QueueFullError,
    RequestError,
    ServiceError,
    ShuttingDownError,
    UnauthorizedError,
)
from jetface.logs import Seldom
from jetface.metrics import Metrics, Series
from jetface.server.context import RequestContext, context_in, open_context
from jetface.server.drain import Drain
from jetface.server.encoding import JSON_TYPE, MSGPACK_TYPE, envelope, headers_of, to_json, to_msgpack
from jetface.server.middleware import NO_SNIFFING

_log = structlog.get_logger("jetface.api")

_NEWEST_WEIGHT = 0.1
"""Of the newest request in the running mean: the last twenty or so count."""


_SLOWEST_KEPT = 32
"""Looking through a thousand that are received takes half a millisecond: not for each that comes."""

_time_of = itemgetter(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may come in."""

    api_keys: tuple[str, ...] = ()
    """Empty, as the next: everybody."""
    read_api_keys: tuple[str, ...] = ()
    """Those that may only read."""
    open_paths: frozenset[str] = frozenset({"/", "/docs", "/redoc", "/openapi.json", "/health"})
    """Open without a key."""
    open_prefixes: tuple[str, ...] = ("/health/", "/static/", "/static-offline-docs/", "/api/v1/static/")
    """Every path below is open too."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call us from a browser; `*` is all of them, empty none but our own."""

    def is_open(self, path: str) -> bool:
        """Tell whether a path can be asked for without a key."""
        return path in self.open_paths or path.startswith(self.open_prefixes)


class Claimant(Protocol):
    """A request that is received or served; no two are equal."""

    @property
    def stalls_at(self) -> float:
        """`loop.time()` until which its client may go on as slowly as now; infinite while nothing is waited for."""
        ...

    @property
    def held_bytes(self) -> int:
        """What its body has of the budget for bytes."""
        ...

    def end(self, cause: ServiceError) -> None:
        """Make it fail."""
        ...


class Places:
    """The places in flight, and the larger room before them where bodies arrive. Belongs to the event loop.

    A request takes a place when its body is there: however slowly others send, a place is free for one who has sent.
    The room is bounded, too: when it is full, whose time is up first makes way, the slowest.

    What a place costs is measured: the seconds between two answers while the service is busy, estimated as a
    request's time divided by the requests that shared it. That times those in flight is when all of them are answered.
    """

    def __init__(
        self, limit: int, *, most_received: int = 1024, most_aside_bytes: int = 2**29, longest_wait_s: float = 30.0
    ) -> None:
        """Create `limit` free places.

        Args:
            limit: Most requests served at once, >= 1.
            most_received: Most requests whose bodies arrive at once, >= 1.
            most_aside_bytes: What the bodies of several that are aside may have of their budget.
            longest_wait_s: Never tell a caller to stay away longer.
        """
        self._limit = limit
        self._most_received = most_received
        self._most_aside_bytes = most_aside_bytes
        self._longest_wait_s = longest_wait_s
        self._share_s = 0.0
        self._seldom = Seldom()
        self._received: set[Claimant] = set()
        self._slowest: list[tuple[float, Claimant]] = []
        self._in_flight: dict[Claimant, float] = {}
        self._aside: set[Claimant] = set()
        self._returning: deque[tuple[Claimant, asyncio.Future[None]]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def limit(self) -> int:
        """Most requests served at once."""
        return self._limit

    @property
    def num_taken(self) -> int:
        """Requests being served."""
        return len(self._in_flight)

    @property
    def are_taken(self) -> bool:
        """Whether no place is free."""
        return len(self._in_flight) >= self._limit

    @property
    def num_received(self) -> int:
        """Requests whose bodies arrive."""
        return len(self._received)

    @property
    def num_aside(self) -> int:
        """Requests that have let go of their place until a model is loaded."""
        return len(self._aside)

    @property
    def wait_s(self) -> float:
        """Seconds until what is in flight now is likely to be answered."""
        return min(self._share_s * len(self._in_flight), self._longest_wait_s)

    def check(self) -> None:
        """Refuse when no place is free.

        Raises:
            QueueFullError: With the seconds after which a place is likely.
        """
        if len(self._in_flight) >= self._limit:
            self._count_refusal()
            raise QueueFullError(
                "Too many requests are being served; come back later.",
                retry_after_s=max(self.wait_s, 1.0),
                wait_s=round(self.wait_s, 3),
                in_flight=len(self._in_flight),
            )

    def _count_refusal(self) -> None:
        if num_refused := self._seldom.count():
            _log.warning("requests are refused: every place is taken", refused=num_refused, places=self._limit)

    @contextlib.contextmanager
    def held_by(self, claimant: Claimant) -> Iterator[None]:
        """Hold room for a request while its body arrives, and its place from `take` on.

        Raises:
            QueueFullError: There is no room, and nobody who makes any.
        """
        if len(self._received) >= self._most_received:
            self._make_room()
        self._received.add(claimant)
        self._idle.clear()
        try:
            yield
        finally:
            self._received.discard(claimant)
            taken_at = self._in_flight.get(claimant)
            if taken_at is not None:
                share_s = (asyncio.get_running_loop().time() - taken_at) / len(self._in_flight)
                self._share_s += (share_s - self._share_s) * (_NEWEST_WEIGHT if self._share_s else 1.0)
                self._free_place_of(claimant)
            self._aside.discard(claimant)
            if not self._in_flight and not self._received and not self._aside:
                self._idle.set()

    def take(self, claimant: Claimant) -> None:
        """Give a place to a request whose body is there, unless it has one.

        Raises:
            QueueFullError: As `check`.
        """
        if claimant not in self._in_flight:
            self.check()
            self._received.discard(claimant)
            self._in_flight[claimant] = asyncio.get_running_loop().time()

    @contextlib.asynccontextmanager
    async def step_aside(self, claimant: Claimant, refusal: ServiceError) -> AsyncIterator[None]:
        """Let go of a place inside, and wait for one in the end: first out, first back.

        As many requests may be aside as there are places, if their bodies leave others enough of the budget. One that
        is aside already, or has no place, goes on as it is.

        Args:
            claimant: Who has the place.
            refusal: Raised when as many are aside as may be.
        """
        if claimant not in self._in_flight:
            yield
            return
        num_bytes = claimant.held_bytes + sum([each.held_bytes for each in self._aside])
        if len(self._aside) >= self._limit or (self._aside and num_bytes > self._most_aside_bytes):
            raise refusal
        self._aside.add(claimant)
        self._free_place_of(claimant)
        yield  # where this raises, its request ends and needs no place
        if len(self._in_flight) < self._limit:
            self._in_flight[claimant] = asyncio.get_running_loop().time()
        else:
            turn = asyncio.get_running_loop().create_future()
            self._returning.append((claimant, turn))
            await turn
        self._aside.discard(claimant)

    def _free_place_of(self, claimant: Claimant) -> None:
        del self._in_flight[claimant]
        while self._returning and len(self._in_flight) < self._limit:
            returned, turn = self._returning.popleft()
            if not turn.done():  # else its request ended while it waited
                self._in_flight[returned] = asyncio.get_running_loop().time()
                turn.set_result(None)

    def _make_room(self) -> None:
        self._count_refusal()
        slowest = self._still_slowest() or self._look_for_slowest()
        if slowest is None:
            raise _too_many_received()
        self._received.remove(slowest)
        slowest.end(_too_many_received())

    def _still_slowest(self) -> Claimant | None:
        """Return the slowest of those found last of which nothing has come since; None: there is none left.

        A client's time is only ever put off, so they are still the slowest of all.
        """
        while self._slowest:
            stalls_at, claimant = self._slowest.pop()
            if claimant in self._received and claimant.stalls_at == stalls_at:
                return claimant
        return None

    def _look_for_slowest(self) -> Claimant | None:
        """Look through all, and keep some for those who come next; None: no client is waited for."""
        waited_for = ((claimant.stalls_at, claimant) for claimant in self._received)
        found = heapq.nsmallest(_SLOWEST_KEPT, (each for each in waited_for if each[0] < float("inf")), key=_time_of)
        self._slowest = found[::-1]
        return self._still_slowest()

    async def abandon(self) -> None:
        """Give up what is in flight: each request fails with `ShuttingDownError`. Returns when all are answered."""
        for claimant in (*self._received, *self._in_flight, *self._aside):
            claimant.end(shutting_down())
        await self._idle.wait()


def _too_many_received() -> QueueFullError:
    return QueueFullError("Too many requests are being received; come back later, or send faster.", retry_after_s=1)


def shutting_down() -> ShuttingDownError:
    """Return what a request that cannot be finished is answered with."""
    return ShuttingDownError("The service is shutting down.", retry_after_s=1)


_BEARER = "bearer "


class Door:
    """Checks the API key, then the declared length of the body."""

    def __init__(self, app: ASGIApp, *, access: Access, max_body_bytes: int) -> None:
        self._app = app
        self._access = access
        self._max_body_bytes = max_body_bytes
        self._digests = [_digest(key) for key in (*access.api_keys, *access.read_api_keys)]
        self._num_writing = len(access.api_keys)

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
        if self._digests and not self._access.is_open(path):
            self._check_key(context)
        context.body_bytes = self._declared_bytes(declared)

    def _check_key(self, context: RequestContext) -> None:
        authorization = context.header(b"authorization") or ""
        bearer = authorization[len(_BEARER) :] if authorization[: len(_BEARER)].lower() == _BEARER else ""
        given = _digest(context.header(b"x-api-key") or bearer)
        # Every key is compared, so that the time taken does not tell which one nearly fitted.
        is_key = [hmac.compare_digest(given, digest) for digest in self._digests]
        context.caller = given.hex()[:8]
        context.may_write = any(is_key[: self._num_writing])
        if not any(is_key):
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
        if not self._places.are_taken or self._drain.is_draining:
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
