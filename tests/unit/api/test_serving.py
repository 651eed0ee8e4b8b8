"""Places, deadlines, slow and vanished clients, and the end of the process."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from structlog.testing import capture_logs

from jetface.api.requests import RequestLimits
from tests.support.asgi import RawRequest, chunks
from tests.support.fakes import Harness, jpeg_of

BODY = b'{"images": {"data": ["' + base64.b64encode(jpeg_of()) + b'"]}}'
JSON = {"content-type": "application/json"}


async def post(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post("/extract", content=BODY, headers={**JSON, **headers})


def start(harness: Harness, request: RawRequest) -> asyncio.Task[RawRequest]:
    return asyncio.create_task(request.send_to(harness.app))


async def until(condition: Callable[[], object], *, timeout_s: float = 5) -> None:
    for _ in range(int(timeout_s / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize(
    ("declared", "connection"),
    [
        pytest.param({"content-length": "60000"}, None, id="a short body is read past: the next request reuses it"),
        pytest.param({"content-length": "2000000"}, "close", id="a long body"),
        pytest.param({"transfer-encoding": "chunked"}, "close", id="a body of unknown length"),
    ],
)
async def test_a_request_beyond_the_places_is_refused_before_its_body_is_read(
    declared: dict[str, str], connection: str | None
) -> None:
    harness = Harness(max_in_flight=1)
    harness.extractor.delay_s = 0.2
    first = start(harness, RawRequest(chunks(BODY, b""), JSON))
    await until(lambda: harness.extractor.num_calls)
    second = await RawRequest(chunks(BODY, b""), {**JSON, **declared}).send_to(harness.app)
    assert (second.status, second.code, second.num_receives) == (429, "queue_full", 0)
    assert second.headers["retry-after"] == "1"
    assert second.headers.get("connection") == connection
    assert (await first).status == 200
    assert (await RawRequest(chunks(BODY, b""), JSON).send_to(harness.app)).status == 200


async def test_refusals_are_told_now_and_then_not_one_by_one() -> None:
    harness = Harness(max_in_flight=1)
    harness.extractor.delay_s = 0.2
    first = start(harness, RawRequest(chunks(BODY, b""), JSON))
    await until(lambda: harness.extractor.num_calls)
    with capture_logs() as lines:
        for _ in range(5):
            assert (await RawRequest(chunks(BODY, b""), JSON).send_to(harness.app)).status == 429
    told = [line["event"] for line in lines if line["log_level"] != "debug"]
    assert told == ["requests are refused: every place is taken"]
    assert (await first).status == 200


async def test_health_information_and_metrics_take_no_place() -> None:
    harness = Harness(max_in_flight=1)
    harness.extractor.delay_s = 0.2
    first = start(harness, RawRequest(chunks(BODY, b""), JSON))
    await until(lambda: harness.extractor.num_calls)
    async with harness.client() as client:
        for path in ("/health", "/health/live", "/health/ready", "/info", "/models", "/metrics"):
            assert (await client.get(path)).status_code == 200
        assert "jetface_requests_in_flight 1.0" in (await client.get("/metrics")).text
        await first


async def test_the_deadline_ends_the_work(client: httpx.AsyncClient, harness: Harness) -> None:
    harness.extractor.delay_s = 5
    answer = await post(client, **{"x-request-timeout-ms": "50"})
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"
    assert harness.extractor.num_cancelled == 1
    assert harness.places.num_taken == 0


async def test_a_client_may_only_shorten_the_deadline() -> None:
    harness = Harness(limits=RequestLimits(timeout_s=0.05))
    harness.extractor.delay_s = 5
    async with harness.client() as client:
        assert (await post(client, **{"x-request-timeout-ms": "100000"})).status_code == 504


async def test_the_work_is_told_the_deadline(client: httpx.AsyncClient, harness: Harness) -> None:
    before = asyncio.get_running_loop().time()
    await post(client, **{"x-request-timeout-ms": "5000"})
    assert before + 5 <= harness.extractor.deadline < before + 6


async def test_a_body_that_stops_arriving_times_out() -> None:
    harness = Harness(limits=RequestLimits(stall_s=0.05))
    slow = await RawRequest(chunks(BODY[:5], BODY[5:], delay_s=0.3), JSON).send_to(harness.app)
    assert (slow.status, slow.code) == (408, "request_timeout")
    assert harness.extractor.num_calls == 0


async def test_a_body_that_drips_times_out_however_regularly_it_comes() -> None:
    harness = Harness(limits=RequestLimits(stall_s=0.1, min_bytes_per_s=1000))
    drip = RawRequest(chunks(*[b"a"] * 500, delay_s=0.01), JSON | {"content-length": "999"})
    took_s = -time.monotonic()
    await drip.send_to(harness.app)
    took_s += time.monotonic()
    assert (drip.status, drip.code) == (408, "request_timeout")
    assert took_s < 2


@pytest.mark.slow
async def test_a_body_that_comes_fast_enough_may_take_longer_than_a_silence() -> None:
    harness = Harness(limits=RequestLimits(stall_s=0.5, min_bytes_per_s=10))
    pieces = [BODY[start : start + 40] for start in range(0, len(BODY), 40)]
    slow = await RawRequest(chunks(*pieces, b"", delay_s=1.0 / len(pieces)), JSON).send_to(harness.app)
    assert slow.status == 200


async def test_those_who_send_slowly_take_no_place_from_others() -> None:
    harness = Harness(max_in_flight=1)
    drips = [RawRequest(chunks(*[b"a"] * 500, delay_s=0.01), JSON | {"content-length": "999"}) for _ in range(20)]
    tasks = [start(harness, drip) for drip in drips]
    await until(lambda: all(drip.num_receives for drip in drips))
    async with harness.client() as client:
        for _ in range(3):
            assert (await post(client)).status_code == 200
            metrics = (await client.get("/metrics")).text
            assert "jetface_requests_received 20.0" in metrics
            assert "jetface_requests_in_flight 0.0" in metrics
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_has_sent_all_is_refused_where_others_took_the_places_meanwhile() -> None:
    harness = Harness(max_in_flight=1)
    harness.extractor.delay_s = 0.3

    async def until_others_are_served() -> AsyncIterator[bytes]:
        yield BODY[:9]
        await until(lambda: harness.extractor.num_calls)
        yield BODY[9:]
        yield b""

    late = RawRequest(until_others_are_served(), JSON | {"content-length": str(len(BODY))})
    task = start(harness, late)
    await until(lambda: late.num_receives > 1)
    first = start(harness, RawRequest(chunks(BODY, b""), JSON))
    await task
    assert (late.status, late.code, late.headers.get("connection")) == (429, "queue_full", None)
    assert (await first).status == 200


async def test_a_body_that_drips_times_out_at_the_deadline() -> None:
    harness = Harness(limits=RequestLimits(timeout_s=0.2))
    drip = RawRequest(chunks(*[BODY[n : n + 1] for n in range(100)], delay_s=0.02), JSON | {"content-length": "999"})
    await drip.send_to(harness.app)
    assert (drip.status, drip.code) == (408, "request_timeout")
    assert drip.headers["connection"] == "close"


async def test_a_client_that_goes_while_its_work_is_done_cancels_it(harness: Harness) -> None:
    harness.extractor.delay_s = 5
    gone = RawRequest(chunks(BODY, b"", None, delay_s=0.02), JSON)
    await asyncio.wait_for(gone.send_to(harness.app), 2)
    assert gone.status == 0
    assert harness.extractor.num_cancelled == 1
    assert _count(harness, "499") == 1


async def test_a_client_that_goes_while_it_sends_costs_nothing(harness: Harness) -> None:
    gone = await RawRequest(chunks(BODY[:9], None), JSON).send_to(harness.app)
    assert (gone.status, harness.extractor.num_calls) == (0, 0)


def _count(harness: Harness, status: str) -> float:
    return float(harness.metrics.requests.labels("/extract", "POST", status)._value.get())


async def test_a_draining_service_refuses_new_requests_and_answers_old_ones() -> None:
    harness = Harness()
    harness.extractor.delay_s = 0.2
    stopped = asyncio.Event()
    async with harness.client() as client:
        first = asyncio.create_task(post(client))
        await until(lambda: harness.extractor.num_calls)
        harness.drain.begin(stopped.set, "test")
        refused = await post(client)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert refused.headers["connection"] == "close"
        assert (await client.get("/health/ready")).status_code == 503
        assert (await client.get("/health/live")).status_code == 200
        answered = await first
        assert answered.status_code == 200
        assert answered.headers["connection"] == "close"
        await asyncio.wait_for(stopped.wait(), 2)


async def test_what_is_in_flight_when_the_grace_is_over_is_told_so() -> None:
    harness = Harness(grace_s=0.2)
    harness.extractor.delay_s = 5
    stopped = asyncio.Event()
    async with harness.client() as client:
        first = asyncio.create_task(post(client))
        await until(lambda: harness.extractor.num_calls)
        harness.drain.begin(stopped.set, "test")
        answer = await asyncio.wait_for(first, 2)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    await asyncio.wait_for(stopped.wait(), 2)
    assert harness.drain.num_in_flight == 0


@pytest.mark.parametrize("times", [20])
async def test_a_burst_is_answered_or_refused(times: int) -> None:
    harness = Harness(max_in_flight=4)
    harness.extractor.delay_s = 0.02
    async with harness.client() as client:
        answers = await asyncio.gather(*(post(client) for _ in range(times)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == 4
    assert statuses.count(429) == times - 4


async def test_whenever_a_request_is_given_up_its_work_ends() -> None:
    """At every turn of the loop: before Python 3.12 `wait_for` loses a cancellation that comes with a message."""
    harness = Harness()
    harness.extractor.delay_s = 60
    for num_turns in range(1, 20):
        request = start(harness, RawRequest(chunks(BODY, b""), JSON))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        request.cancel()
        assert await asyncio.wait([request], timeout=30) == ({request}, set())
    assert harness.places.num_taken == 0
