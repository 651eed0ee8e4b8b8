"""One call from first attempt to result, without sending or sleeping itself: both clients drive the same steps.

`exchange` is a generator: it yields `Send` and is sent the `Reply`, or the error that httpx raised; it yields `Wait`
and is sent None; it returns the call's result or raises a `JetfaceError`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import ormsgpack

from jetface_client.calls import Call
from jetface_client.errors import (
    AnswerError,
    BusyError,
    DeadlineError,
    JetfaceError,
    ModelUnavailableError,
    RequestRefusedError,
    ServerFaultError,
    ServiceError,
    UnauthorizedError,
    UnreachableError,
)
from jetface_client.retries import RetryPolicy, retry_after_s

Result = TypeVar("Result")

DEFAULT_URL = "http://127.0.0.1:18080"
DEFAULT_TIMEOUT_S = 60.0
KEPT_CONNECTIONS = 64
"""Idle ones a client keeps for the next call; httpx's own 20 would close those of a busy folder."""

CONNECT_TIMEOUT_S = 5.0
"""A host that does not take a connection by then is tried again rather than waited for."""

_MSGPACK = "application/msgpack"

_ERROR_BY_CODE: Mapping[str, type[ServiceError]] = {
    "unauthorized": UnauthorizedError,
    "overloaded": BusyError,
    "queue_full": BusyError,
    "shutting_down": BusyError,
    "model_building": BusyError,
    "model_loading": BusyError,
    "memory_pressure": BusyError,
    "device_memory": BusyError,
    "model_unavailable": ModelUnavailableError,
    "model_file": ModelUnavailableError,
    "model_contract": ModelUnavailableError,
    "model_stuck": ModelUnavailableError,
    "storage_failed": ServerFaultError,
    "storage_full": ServerFaultError,
}
_DEADLINE_CODES = frozenset({"deadline_exceeded", "request_timeout"})
_BUSY_STATUSES = frozenset({429, 502, 503, 504})
"""What a proxy answers in place of a service that is overloaded or restarts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a client talks to its service."""

    base_url: str
    timeout_s: float
    """Of a whole call: all attempts and the pauses between them."""
    retries: RetryPolicy
    api_key: str | None = field(default=None, repr=False)
    user_agent: str = "jetface-client"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before the first call."""
        if httpx.URL(self.base_url).scheme not in {"http", "https"}:
            raise ValueError("base_url starts with http:// or https://")
        if not self.timeout_s > 0:
            raise ValueError("timeout_s is above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send this, and say what came back."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None
    timeout: httpx.Timeout


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for a while."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, read to its end."""

    status: int
    headers: Mapping[str, str]
    content: bytes


Step = Send | Wait
Outcome = Reply | httpx.RequestError | None


def exchange(
    call: Call[Result], config: Config, *, now: Callable[[], float], request_id: str | None = None
) -> Generator[Step, Outcome, Result]:
    """Lead one call to its result.

    Args:
        call: What is asked.
        config: Of the client.
        now: A clock that only goes forward, seconds.
        request_id: Sent with every attempt; made up when None.

    Raises:
        JetfaceError: Any of the tree.
    """
    sent_id = request_id or uuid.uuid4().hex
    deadline = now() + config.timeout_s
    num_failed = 0
    while True:
        outcome = yield _attempt(call, config, deadline - now(), sent_id)
        try:
            return _conclude(call, outcome, sent_id)
        except JetfaceError as error:
            num_failed += 1
            delay_s = config.retries.delay_s(num_failed, error) if call.is_repeatable else None
            # A pause that outlasts the call's time is not begun: the reason is worth more now than a timeout later.
            if delay_s is None or now() + delay_s >= deadline:
                raise
        yield Wait(delay_s)


def _attempt(call: Call[Any], config: Config, left_s: float, request_id: str) -> Send:
    """Return the request of one attempt; the service learns how long it is waited for.

    Raises:
        DeadlineError: No time is left.
    """
    if left_s <= 0:
        raise DeadlineError(f"no answer within {config.timeout_s:g} s")
    headers = {"x-request-timeout-ms": str(max(1, int(left_s * 1e3)))}
    if call.body is not None:
        headers["content-type"] = call.content_type
    method = call.method or ("GET" if call.body is None else "POST")
    return _send(method, call.path, config, left_s, request_id, headers=headers, content=call.body)


def stream(path: str, config: Config) -> Send:
    """Return the request of an answer that is read as it comes: nothing but a silence of `timeout_s` ends it."""
    return _send("GET", path, config, config.timeout_s, uuid.uuid4().hex, headers={}, content=None)


def _send(
    method: str,
    path: str,
    config: Config,
    timeout_s: float,
    request_id: str,
    *,
    headers: Mapping[str, str],
    content: bytes | None,
) -> Send:
    told = {"accept": _MSGPACK, "user-agent": config.user_agent, "x-request-id": request_id, **headers}
    if config.api_key:
        told["authorization"] = f"Bearer {config.api_key}"
    return Send(
        method=method,
        url=f"{config.base_url.rstrip('/')}{path}",
        headers=told,
        content=content,
        timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
    )


def stream_error(outcome: Reply | httpx.RequestError, sent: Send) -> JetfaceError:
    """Return the error of a stream that was refused, or broke."""
    if not isinstance(outcome, Reply):
        return _transport_error(outcome)
    answer = _decode(outcome)
    return _service_error(outcome, answer if isinstance(answer, Mapping) else None, sent.headers["x-request-id"])


def _conclude(call: Call[Result], outcome: Outcome, request_id: str) -> Result:
    if not isinstance(outcome, Reply):
        raise _transport_error(outcome) from outcome
    answer = _decode(outcome)
    is_envelope = isinstance(answer, Mapping) and "error" in answer
    if outcome.status in call.statuses and isinstance(answer, Mapping) and not is_envelope:
        try:
            return call.parse(answer)
        except (LookupError, TypeError, ValueError, AttributeError) as cause:
            raise AnswerError(f"{call.path} answered in an unknown shape") from cause
    raise _service_error(outcome, answer if is_envelope else None, request_id)


def _transport_error(cause: httpx.RequestError | None) -> JetfaceError:
    if isinstance(cause, httpx.TimeoutException) and not isinstance(cause, httpx.ConnectTimeout):
        # Reading, writing and waiting for a connection are bounded by what the call had left.
        return DeadlineError("no answer in time")
    if isinstance(cause, httpx.TransportError):
        return UnreachableError(f"no connection to the service: {str(cause) or type(cause).__name__}")
    return AnswerError(f"the answer cannot be read: {type(cause).__name__}")


def _decode(reply: Reply) -> Any:
    """Return the answer's value; None when it is neither msgpack nor JSON."""
    media_type = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if media_type in {_MSGPACK, "application/x-msgpack"}:
            return ormsgpack.unpackb(reply.content)
        return json.loads(reply.content) if media_type == "application/json" else None
    except ValueError:
        return None


def _service_error(reply: Reply, envelope: Any, request_id: str) -> JetfaceError:
    """Return the error of an answer that is none of the call's."""
    error = envelope.get("error") if envelope is not None else None
    if not isinstance(error, Mapping):
        if reply.status not in _BUSY_STATUSES:
            return AnswerError(f"HTTP {reply.status} without an answer of jetface's: is this its address?")
        error = {"message": "the service cannot be reached through its proxy", "code": f"http_{reply.status}"}
    code = str(error.get("code"))
    message = str(error.get("message"))
    asked_s = retry_after_s(reply.headers.get("retry-after"))
    if code in _DEADLINE_CODES and asked_s is None:
        return DeadlineError(message)
    return _kind(code, reply.status)(
        message,
        code=code,
        status=reply.status,
        details=error.get("details") or {},
        request_id=str((envelope or {}).get("request_id") or request_id),
        retry_after_s=asked_s,
    )


def _kind(code: str, status: int) -> type[ServiceError]:
    """Choose the class by the code; by the status where a newer service says a code unknown here."""
    if code in _ERROR_BY_CODE:
        return _ERROR_BY_CODE[code]
    if status in _BUSY_STATUSES:
        return BusyError
    return RequestRefusedError if 400 <= status < 500 else ServerFaultError
