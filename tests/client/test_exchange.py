"""When calls are sent again, and what becomes of every kind of answer; no network: the generator is led by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface import errors as service_errors
from jetface.server.encoding import status_of
from jetface_client import (
    AnswerError,
    BusyError,
    DeadlineError,
    JetfaceError,
    ModelUnavailableError,
    RequestRefusedError,
    RetryPolicy,
    ServerFaultError,
    ServiceError,
    UnauthorizedError,
    UnreachableError,
)
from jetface_client.calls import Call, info_call, ready_call
from jetface_client.exchange import Config, Outcome, Reply, Send, Wait, exchange
from jetface_client.retries import retry_after_s

INFO = {"version": "1", "models": {"det_name": "d", "rec_name": None}}
GOOD = Reply(200, httpx.Headers({"content-type": "application/x-msgpack"}), ormsgpack.packb(INFO))


def refusal(status: int, code: str, **headers: str) -> Reply:
    body = {"error": {"code": code, "message": "No.", "details": {"a": 1}}, "request_id": "theirs"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, httpx.Headers({"content-type": "application/x-msgpack", **named}), ormsgpack.packb(body))


SERVICE_ERRORS = [
    kind
    for kind in vars(service_errors).values()
    if isinstance(kind, type) and issubclass(kind, service_errors.ServiceError)
]


class Script:
    """Leads one call with outcomes in order; keeps what was sent and waited; time passes by `step_s` an attempt."""

    def __init__(
        self,
        *outcomes: Outcome,
        step_s: float = 0.0,
        oversleep_s: float = 0.0,
        call: Call[Any] | None = None,
        **config: Any,
    ) -> None:
        self.outcomes = iter(outcomes)
        self.step_s = step_s
        self.oversleep_s = oversleep_s
        self.now_s = 100.0
        self.sent: list[Send] = []
        self.waited: list[float] = []
        options = {"base_url": "http://a/prefix/", "timeout_s": 60.0, "retries": RetryPolicy(), **config}
        self.steps = exchange(call or info_call(), Config(**options), now=lambda: self.now_s)

    def run(self) -> Any:
        outcome: Outcome = None
        while True:
            try:
                step = self.steps.send(outcome)
            except StopIteration as end:
                return end.value
            if isinstance(step, Wait):
                self.waited.append(step.delay_s)
                self.now_s += step.delay_s + self.oversleep_s
                outcome = None
            else:
                self.sent.append(step)
                self.now_s += self.step_s
                outcome = next(self.outcomes)


class TestRetries:
    @pytest.mark.parametrize(
        "failure",
        [
            refusal(429, "queue_full", retry_after="1"),
            refusal(503, "shutting_down", retry_after="1"),
            refusal(503, "model_building"),
            refusal(503, "model_loading", retry_after="5"),
            refusal(504, "deadline_exceeded", retry_after="5"),
            refusal(429, "a_code_of_tomorrow"),
            Reply(503, httpx.Headers({"content-type": "text/html"}), b"<h1>nginx</h1>"),
            httpx.ConnectError("refused"),
            httpx.ConnectTimeout(""),
            httpx.RemoteProtocolError("Server disconnected"),
            httpx.ReadError(""),
        ],
    )
    def test_what_passes_is_tried_again(self, failure: Outcome) -> None:
        script = Script(failure, failure, GOOD)
        assert script.run().version == "1"
        assert len(script.sent) == 3
        assert len({step.headers["x-request-id"] for step in script.sent}) == 1

    @pytest.mark.parametrize(
        ("failure", "kind"),
        [
            (refusal(401, "unauthorized"), UnauthorizedError),
            (refusal(422, "invalid_request"), RequestRefusedError),
            (refusal(418, "a_code_of_tomorrow"), RequestRefusedError),
            (refusal(503, "model_file"), ModelUnavailableError),
            (refusal(500, "inference_failed"), ServerFaultError),
            (refusal(504, "deadline_exceeded"), DeadlineError),
            (refusal(408, "request_timeout"), DeadlineError),
            (httpx.ReadTimeout(""), DeadlineError),
            (httpx.DecodingError("gzip"), AnswerError),
            (Reply(404, httpx.Headers({"content-type": "text/html"}), b"<h1>no</h1>"), AnswerError),
            (Reply(200, httpx.Headers({"content-type": "application/json"}), b"{"), AnswerError),
            (Reply(200, httpx.Headers({"content-type": "application/json"}), b"[]"), AnswerError),
            (Reply(200, httpx.Headers({"content-type": "application/json"}), b'{"version": 1}'), AnswerError),
            (Reply(200, httpx.Headers({"content-type": "application/json"}), b'{"error": 1}'), AnswerError),
        ],
    )
    def test_what_stays_wrong_is_not(self, failure: Outcome, kind: type[JetfaceError]) -> None:
        script = Script(failure)
        with pytest.raises(kind):
            script.run()
        assert len(script.sent) == 1

    def test_attempts_are_bounded_and_the_last_error_is_told(self) -> None:
        script = Script(*[httpx.ConnectError("refused")] * 9, retries=RetryPolicy(num_attempts=3))
        with pytest.raises(UnreachableError, match="refused") as raised:
            script.run()
        assert len(script.sent) == 3
        assert isinstance(raised.value.__cause__, httpx.ConnectError)

    def test_a_pause_is_at_least_what_the_service_asked_for(self) -> None:
        script = Script(refusal(429, "queue_full", retry_after="7"), GOOD)
        script.run()
        assert 7 <= script.waited[0] <= 7.1

    def test_who_gives_up_while_a_model_loads_is_told_so(self) -> None:
        """Not that time ran out: it did not, and `details` has how far the load is."""
        script = Script(refusal(504, "deadline_exceeded", retry_after="90"), timeout_s=60.0)
        with pytest.raises(BusyError) as raised:
            script.run()
        assert (raised.value.status, raised.value.code, raised.value.retry_after_s) == (504, "deadline_exceeded", 90)
        assert script.waited == []

    def test_a_pause_that_outlasts_the_call_is_not_begun(self) -> None:
        script = Script(refusal(429, "queue_full", retry_after="61"))
        with pytest.raises(BusyError) as raised:
            script.run()
        assert raised.value.retry_after_s == 61
        assert script.waited == []

    def test_whether_it_is_ready_is_asked_once(self) -> None:
        body = {"status": "failed", "reason": "shutting down", "models": {"m": {"state": "failed"}}}
        headers = httpx.Headers({"content-type": "application/x-msgpack"})
        found = Script(Reply(503, headers, ormsgpack.packb(body)), call=ready_call()).run()
        assert (found.is_ready, found.reason, found.states) == (False, "shutting down", {"m": "failed"})
        with pytest.raises(UnreachableError):
            Script(httpx.ConnectError("refused"), call=ready_call()).run()

    def test_the_service_is_told_how_long_it_is_waited_for(self) -> None:
        script = Script(httpx.ReadError(""), GOOD, step_s=10.0, retries=RetryPolicy(first_delay_s=0))
        script.run()
        assert [step.headers["x-request-timeout-ms"] for step in script.sent] == ["60000", "50000"]
        assert script.sent[1].timeout.read == 50

    def test_no_attempt_starts_after_the_deadline(self) -> None:
        script = Script(httpx.ReadError(""), step_s=61.0)
        with pytest.raises(UnreachableError):
            script.run()
        assert len(script.sent) == 1

    def test_a_pause_that_took_longer_than_meant_ends_the_call(self) -> None:
        """As when the machine slept meanwhile."""
        script = Script(httpx.ReadError(""), oversleep_s=100.0)
        with pytest.raises(DeadlineError, match="within 60 s"):
            script.run()
        assert len(script.sent) == 1

    @given(outcomes=st.lists(st.sampled_from([429, 503, 500, 200, 0]), max_size=12), attempts=st.integers(1, 6))
    def test_time_and_attempts_hold_whatever_comes(self, outcomes: list[int], attempts: int) -> None:
        def answers() -> Iterator[Outcome]:
            for number in [*outcomes, *[200] * 12]:
                if number == 200:
                    yield GOOD
                else:
                    yield httpx.ConnectError("") if number == 0 else refusal(number, "x", retry_after="3")

        script = Script(*answers(), step_s=1.0, timeout_s=12.0, retries=RetryPolicy(num_attempts=attempts))
        with contextlib.suppress(JetfaceError):
            script.run()
        assert 1 <= len(script.sent) <= attempts
        assert script.now_s <= 100 + 12 + 1


class TestErrors:
    def test_the_envelope_is_kept(self) -> None:
        with pytest.raises(RequestRefusedError) as raised:
            Script(refusal(422, "invalid_request")).run()
        error = raised.value
        assert (error.code, error.status, error.details, error.request_id) == (
            "invalid_request", 422, {"a": 1}, "theirs",
        )  # fmt: skip
        assert "theirs" in str(error)

    @pytest.mark.parametrize("kind", SERVICE_ERRORS, ids=lambda kind: kind.code)
    def test_every_error_of_the_service_has_its_class(self, kind: type[service_errors.ServiceError]) -> None:
        """Those worth another try are tried again, no other; each keeps its code."""
        status = int(status_of(kind))
        again = kind.code in {
            "overloaded",
            "queue_full",
            "shutting_down",
            "model_building",
            "model_loading",
            "memory_pressure",
            "device_memory",
        }
        script = Script(refusal(status, kind.code), refusal(status, kind.code), retries=RetryPolicy(num_attempts=2))
        with pytest.raises((ServiceError, DeadlineError)) as raised:
            script.run()
        assert len(script.sent) == (2 if again else 1)
        assert isinstance(raised.value, BusyError) == again
        if isinstance(raised.value, ServiceError):
            assert raised.value.code == kind.code
            assert isinstance(raised.value, RequestRefusedError) == (400 <= status < 500 and not again)
            assert isinstance(raised.value, ModelUnavailableError) == (
                issubclass(kind, service_errors.ModelError) and not again
            )
        else:
            assert status in {408, 504}

    def test_a_key_is_not_shown(self) -> None:
        config = Config(base_url="http://a", timeout_s=1, retries=RetryPolicy(), api_key="secret")
        assert "secret" not in repr(config)

    @pytest.mark.parametrize(
        "wrong", [{"base_url": "localhost:18080"}, {"base_url": "ftp://a"}, {"timeout_s": 0}, {"timeout_s": -1}]
    )
    def test_what_cannot_be_meant_is_refused_at_once(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"base_url|timeout_s"):
            Config(**{"base_url": "http://a", "timeout_s": 1, "retries": RetryPolicy(), **wrong})
        with pytest.raises(ValueError, match="num_attempts"):
            RetryPolicy(num_attempts=0)

    def test_a_prefix_of_a_proxy_stays(self) -> None:
        script = Script(GOOD)
        script.run()
        assert script.sent[0].url == "http://a/prefix/info"


@pytest.mark.parametrize(
    ("header", "expected"),
    [("3", 3.0), (" 3 ", 3.0), ("", None), (None, None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None)],
)
def test_retry_after_is_seconds(header: str | None, expected: float | None) -> None:
    assert retry_after_s(header) == expected


@given(num_failed=st.integers(1, 2000), fraction=st.floats(0, 0.999))
def test_pauses_grow_up_to_their_limit(num_failed: int, fraction: float) -> None:
    policy = RetryPolicy(num_attempts=10_000, first_delay_s=0.2, max_delay_s=10)
    delay_s = policy.delay_s(num_failed, UnreachableError("x"), random_fraction=lambda: fraction)
    assert delay_s is not None
    assert 0.1 <= delay_s <= 15
