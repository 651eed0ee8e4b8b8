"""What belongs to one request: its id, its deadline, its clock, and what its answer will say of its stages."""

from __future__ import annotations

import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.types import Scope

from jetface.domain import STAGES, PictureResult, StageTimes
from jetface.errors import ServiceError

if TYPE_CHECKING:
    from starlette.requests import Request

_KEY = "jetface.request"
_TIMES = tuple((stage, f"{stage}_s") for stage in STAGES)
"""Each stage, and what `StageTimes` calls it."""

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""Header `traceparent`: https://www.w3.org/TR/trace-context/#traceparent-header"""
MSGPACK_TYPES = frozenset({"application/msgpack", "application/x-msgpack", "application/vnd.msgpack"})
"""Media types that mean msgpack, in `Accept` and in `Content-Type`."""

PROBES = ("/health", "/metrics")
"""How the paths begin that are asked again and again by machines."""

TRAILING_BYTES = "trailing;bytes="
"""How `x-ignored` tells of bytes behind a message of msgpack."""

DISCARDED_BODY_BYTES = 2**20
"""Longest body that is read past after a refusal."""


@dataclass(slots=True)
class RequestContext:
    """State of one request. Belongs to the event loop."""

    id: str
    wants_msgpack: bool
    """From the `Accept` header at first; the body may ask for it too."""
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    """By name in lower case; of those that came more than once, the first."""
    trace_id: str | None = None
    """The trace it is part of, as `traceparent` says, 32 hexadecimal digits; None where there is none."""
    deadline: float = float("inf")
    """`loop.time()` after which the answer is of no use."""
    started: float = field(default_factory=time.perf_counter)
    stage_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds of work by stage."""
    picture_times: list[StageTimes] = field(default_factory=list)
    is_answer_started: bool = False
    is_body_read: bool = True
    is_head: bool = False
    """Whether nothing but the headers of the answer is sent."""
    end: Callable[[ServiceError], object] = lambda _: None
    """Makes the request fail from without; nothing before it is served."""
    end_span: Callable[[str, str, int], object] | None = None
    """Told what was answered: ends what traces the request; None where nothing does."""
    held_bytes: Callable[[], int] = lambda: 0
    """What its body has of the budget for bytes."""
    at_end: Callable[[], object] | None = None
    """Called when the request has been answered or given up: gives back what it held."""
    ignored: list[str] = field(default_factory=list)
    """What of the request was not looked at and may have been meant; each can be said in a header."""
    caller: str | None = None
    """What tells the API key from others and cannot be used for it; None where there are no keys."""
    may_write: bool = True
    """Whether the key may change the gallery and what is loaded."""
    body_bytes: int | None = None
    """Declared length of the body; None when it was not declared, or will not come."""

    @property
    def took_s(self) -> float:
        """Seconds since the request came in."""
        return time.perf_counter() - self.started

    @property
    def whose(self) -> str:
        """Whose answers may be given again to it: those of its key, and where there are no keys anybody's."""
        return self.caller or ""

    @property
    def must_close(self) -> bool:
        """Whether the connection is of no more use: a long body, or one of unknown length, was left unread.

        A short one is read past by the server, which is cheaper for both sides than a new connection: under overload
        most answers are refusals.
        """
        return not self.is_body_read and (self.body_bytes is None or self.body_bytes > DISCARDED_BODY_BYTES)

    def header(self, name: bytes) -> str | None:
        """Return the value of a header, by its name in lower case; None where it did not come."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def add_results(self, results: Iterable[PictureResult]) -> None:
        """Count the stages of every picture."""
        for result in results:
            self.picture_times.append(result.times)
            for stage, name in _TIMES:
                seconds = getattr(result.times, name)
                if seconds > 0:
                    self.stage_s[stage] += seconds

    def server_timing(self) -> str:
        """Return the value of the `Server-Timing` header, milliseconds; stages of pictures in parallel add up."""
        stages = [f"{stage};dur={seconds * 1e3:.2f}" for stage, seconds in self.stage_s.items()]
        return ", ".join([*stages, f"total;dur={self.took_s * 1e3:.2f}"])


def open_context(scope: Scope) -> RequestContext:
    """Make the context of a request that has just come in, and hang it on the scope."""
    received = scope["headers"]
    headers = dict(reversed(received))
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    accepts = b"accept" in headers and accepts_msgpack(
        value.decode("latin-1") for name, value in received if name == b"accept"
    )
    context = RequestContext(
        id=given if _SANE_ID.fullmatch(given) else new_id(), wants_msgpack=accepts, headers=headers
    )
    if b"traceparent" in headers:
        context.trace_id = _trace_of(headers[b"traceparent"].decode("latin-1"))
    scope[_KEY] = context
    return context


def _trace_of(traceparent: str) -> str | None:
    found = _TRACE_PARENT.fullmatch(traceparent)
    # All zeros and version ff are none, says the specification.
    return found[1] if found and int(found[1], 16) and not traceparent.startswith("ff") else None


def new_id() -> str:
    """Return an id for a request that has none: it has to be another than the last, not hard to guess."""
    return f"{random.getrandbits(64):016x}"


def context_of(request: Request) -> RequestContext:
    """Return the context of a request inside a route."""
    context: RequestContext = request.scope[_KEY]
    return context


def context_in(scope: Scope) -> RequestContext:
    """Return the context `open_context` hung on the scope."""
    context: RequestContext = scope[_KEY]
    return context


def accepts_msgpack(accept: Iterable[str]) -> bool:
    """Tell whether any `Accept` header names msgpack anywhere in its list."""
    for value in accept:
        for part in value.split(","):
            media_type, _, _ = part.partition(";")
            if media_type.strip().lower() in MSGPACK_TYPES:
                return True
    return False
