"""What a connection may do before there is a request that the application could refuse."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from jetface.metrics import Metrics
from jetface.server.limits import Access
from jetface.server.protocol import (
    ACCEPTED_AT_ONCE,
    CONNECTIONS_KEY,
    FREE_CHUNKS,
    LEAST_CHUNK_BYTES,
    MAX_HEAD_BYTES,
    MAX_PIPELINED,
    BoundedProtocol,
    Connections,
    ServingLoop,
)
from tests.support.fakes import Harness, jpeg_of
from tests.support.raw_http import Connection, connected

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
END = b"\r\n"
LARGE = 8 * 2**20


class Hasty(BoundedProtocol):
    """Does not wait for long."""

    head_timeout_s = 0.3
    send_stall_s = 0.3


class Application:
    """Reads its body and answers: with as many bytes as the path says, after as many seconds as the query says."""

    def __init__(self) -> None:
        self.num_started = 0
        self.num_gone = 0
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.num_started += 1
        request = Request(scope, receive)
        try:
            if scope["method"] == "POST":
                self.bodies.append(await request.body())
        except ClientDisconnect:
            self.num_gone += 1
            raise
        await asyncio.sleep(float(scope["query_string"] or 0))
        await Response(b"a" * int(scope["path"][1:] or 2))(scope, receive, send)


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@contextlib.asynccontextmanager
async def served(
    application: ASGIApp, metrics: Metrics, *, most: int = 4096, connections: Connections | None = None
) -> AsyncIterator[Connection]:
    """A connection to the application behind the protocol."""
    config = uvicorn.Config(application, lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    app_state = {CONNECTIONS_KEY: connections or Connections(most, metrics)}
    server = await loop.create_server(
        lambda: Hasty(config=config, server_state=state, app_state=app_state), "127.0.0.1", 0
    )  # fmt: skip
    port = server.sockets[0].getsockname()[1]
    async with connected(port) as opened:
        yield opened
    server.close()
    if state.tasks:
        await asyncio.wait(state.tasks, timeout=5)


@pytest.fixture
async def connection(application: Application, metrics: Metrics) -> AsyncIterator[Connection]:
    async with served(application, metrics) as opened:
        yield opened


async def test_ordinary_requests_share_a_connection(connection: Connection) -> None:
    for body in (b"", b"x" * 3 * MAX_HEAD_BYTES):
        await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = await connection.until(b"aa")
        assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X-A: " + b"a" * MAX_HEAD_BYTES + END + END,
        GET + b"X-A: b\r\n" * (MAX_HEAD_BYTES // 8) + END,
        b"GET /?" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        GET + b"X-A: " + b"a" * 2 * MAX_HEAD_BYTES,  # never ends
        b"GET /?" + b"a" * 2 * MAX_HEAD_BYTES,
        END * MAX_HEAD_BYTES,
    ],
    ids=["one header", "many headers", "url", "endless header", "endless url", "nothing but line ends"],
)
async def test_a_long_head_is_431_and_no_request(connection: Connection, application: Application, head: bytes) -> None:
    await connection.flood(head)
    status, error = await connection.refusal()
    assert (status, error["code"], error["details"]) == (431, "head_too_long", {"max_head_bytes": MAX_HEAD_BYTES})
    assert application.num_started == 0


async def test_endless_trailers_end_the_request(connection: Connection, application: Application) -> None:
    await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
    await connection.flood(b"X-A: b\r\n" * (MAX_HEAD_BYTES // 8))
    assert (await connection.refusal())[0] == 431
    assert (application.num_started, application.num_gone) == (1, 1)


@pytest.mark.parametrize("head", [b"\x16\x03\x01", b"GET\r\n\r\n", GET + b"Content-Length: 1, 2\r\n\r\n"])
async def test_what_is_no_http_gets_the_envelope(connection: Connection, head: bytes) -> None:
    await connection.flood(head)
    status, error = await connection.refusal()
    assert (status, error["code"]) == (400, "malformed_request")


async def test_leave_to_send_and_answers_without_a_body_do_not_wait(connection: Connection) -> None:
    await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    assert await connection.until(END + END) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.send(b"body")
    assert await connection.answer() == (200, b"aa")
    for _ in range(2):
        await connection.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"content-length: 2" in await connection.until(END + END)


async def test_a_silent_connection_is_closed(connection: Connection) -> None:
    assert await connection.rest() == b""


async def test_slow_headers_are_408(connection: Connection, application: Application) -> None:
    await connection.send(GET + b"X-A: ")
    await asyncio.sleep(0.2)
    await connection.send(b"b")
    status, error = await connection.refusal()
    assert (status, error["code"]) == (408, "request_timeout")
    assert application.num_started == 0


async def test_a_slow_answer_is_waited_for_even_with_half_a_request_behind_it(connection: Connection) -> None:
    """The clock stands still while the client waits for us."""
    await connection.send(b"GET /2?0.6 HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
    answer = await connection.until(b"aa")
    assert answer.startswith(b"HTTP/1.1 200")
    await connection.send(END)
    assert (await connection.until(b"aa")).startswith(b"HTTP/1.1 200")


async def test_a_body_that_trickles_in_after_the_answer_is_not_waited_for(connection: Connection) -> None:
    await connection.send(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
    await connection.until(b"aa")
    with contextlib.suppress(ConnectionError):
        for _ in range(10):
            await connection.send(b"a")
            await asyncio.sleep(0.1)
    assert await connection.rest() == b""


async def test_few_requests_wait_behind_one(connection: Connection, application: Application) -> None:
    await connection.flood((GET + END) * (MAX_PIPELINED + 1))
    for _ in range(MAX_PIPELINED + 1):
        assert (await connection.until(b"aa")).startswith(b"HTTP/1.1 200")
    assert application.num_started == MAX_PIPELINED + 1


async def test_more_close_the_connection(connection: Connection, application: Application) -> None:
    await connection.flood((GET + END) * 1000)
    for _ in range(MAX_PIPELINED + 1):
        assert (await connection.until(b"aa")).startswith(b"HTTP/1.1 200")
    assert (await connection.refusal())[0] == 400
    assert application.num_started == MAX_PIPELINED + 1


@pytest.mark.parametrize(
    "behind",
    [
        b"no HTTP\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        GET + b"Host: y\r\n\r\n",
        GET + b"X-A: " + b"a" * MAX_HEAD_BYTES + END + END,
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
        b"CONNECT other.example:443 HTTP/1.1\r\nHost: other.example\r\n\r\n\x16\x03\x01",
    ],
    ids=["no HTTP", "no host", "two hosts", "long head", "broken body", "a tunnel"],
)
@pytest.mark.parametrize("num_good", [1, 3])
async def test_what_is_malformed_leaves_the_answers_before_it_alone(
    connection: Connection, application: Application, behind: bytes, num_good: int
) -> None:
    good = b"POST /5?0.2 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
    await connection.flood(good * num_good + behind + (GET + END) * 3)
    for _ in range(num_good):
        assert await connection.answer() == (200, b"aaaaa")
    status, error = await connection.refusal()
    assert (status, error["code"]) in {(400, "malformed_request"), (431, "head_too_long")}
    assert application.bodies == [b"body"] * num_good
    assert application.num_started == num_good


async def test_a_body_in_tiny_chunks_is_refused(connection: Connection, application: Application) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    await connection.send(head + b"1\r\na\r\n" * FREE_CHUNKS + b"0\r\n\r\n")
    assert (await connection.until(b"aa")).startswith(b"HTTP/1.1 200")
    await connection.send(
        head + (b"%x\r\n" % LEAST_CHUNK_BYTES + b"a" * LEAST_CHUNK_BYTES + b"\r\n") * 9000 + b"0\r\n\r\n"
    )
    assert (await connection.until(b"aa")).startswith(b"HTTP/1.1 200")
    assert [len(body) for body in application.bodies] == [FREE_CHUNKS, 9000 * LEAST_CHUNK_BYTES]
    await connection.flood(head + b"1\r\na\r\n" * 100_000)
    assert (await connection.refusal())[0] == 400


async def test_what_is_malformed_within_its_own_answer_ends_it(metrics: Metrics) -> None:
    async def begin_to_answer(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"aaaa", "more_body": True})
        await asyncio.sleep(0.5)

    async with served(begin_to_answer, metrics) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await connection.until(b"aaaa")
        await connection.flood(b"no chunk\r\n")
        assert await connection.rest() == b""


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost:\r\n", 200),
        (b"GET / HTTP/1.0\r\n", 200),  # as simple health checks ask
    ],
)
async def test_a_request_has_one_host(connection: Connection, head: bytes, status: int) -> None:
    await connection.send(head + END)
    answer = await connection.until(END + END)
    assert answer.startswith(b"HTTP/1.1 %d" % status)
    assert (b"x-content-type-options: nosniff" in answer) == (status == 400)  # the rest is the application's


async def test_an_answer_that_nobody_reads_is_given_up(connection: Connection) -> None:
    await connection.send(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % LARGE)
    await asyncio.sleep(1.0)
    assert len(await connection.rest()) < LARGE


async def test_an_answer_that_is_read_slowly_arrives(connection: Connection) -> None:
    await connection.send(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % LARGE)
    num_bytes = 0
    while num_bytes < LARGE:
        await asyncio.sleep(0.1)
        num_bytes += len(await connection.exactly(2**20))
    assert num_bytes == LARGE


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(b"\x16\x03\x01", "malformed_request", id="no http"),
        pytest.param(END * MAX_HEAD_BYTES, "head_too_long", id="long head"),
        pytest.param(GET, "request_timeout", id="slow headers"),
    ],
)
async def test_what_never_became_a_request_is_counted(
    connection: Connection, metrics: Metrics, sent: bytes, code: str
) -> None:
    await connection.send(sent)
    await connection.refusal()
    assert metrics.registry.get_sample_value("jetface_refusals_total", {"code": code}) == 1


OFFERS = {
    "HTTP/2, as Java's client does": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n",
    "a web socket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("pieces", [1, 2, 3])
async def test_an_offer_of_another_protocol_is_not_taken_and_its_request_is_answered(
    connection: Connection, application: Application, offer: str, pieces: int
) -> None:
    """Body and all, however it is cut; and the next one on the same connection."""
    head = b"POST /3 HTTP/1.1\r\nHost: x\r\n" + OFFERS[offer] + b"Content-Length: 4\r\n\r\n"
    sent = head + b"body" + GET + END
    cuts = {1: [], 2: [len(head)], 3: [len(head) - 1, len(head) + 2]}[pieces]
    for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        await connection.send(sent[start:stop])
        await asyncio.sleep(0.02)
    assert await connection.answer() == (200, b"aaa")
    assert await connection.answer() == (200, b"aa")
    assert application.bodies == [b"body"]


async def test_whoever_offers_may_also_say_that_it_was_the_last_request(connection: Connection) -> None:
    await connection.send(GET + b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert (await connection.rest()).startswith(b"HTTP/1.1 200")


async def test_offers_do_not_pile_up(connection: Connection, application: Application) -> None:
    await connection.flood((GET + OFFERS["a web socket"] + END) * 1000)
    assert (await connection.refusal())[0] == 400
    assert application.num_started == MAX_PIPELINED + 1


async def test_a_tunnel_is_refused(connection: Connection) -> None:
    await connection.send(b"CONNECT other.example:443 HTTP/1.1\r\nHost: other.example\r\n\r\n\x16\x03\x01")
    assert (await connection.refusal())[0] == 400


async def until(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_client_that_goes_while_its_work_is_done_ends_it(metrics: Metrics, *, is_reset: bool) -> None:
    """The protocol says so at once; another client on the same service is answered."""
    harness = Harness()
    harness.extractor.delay_s = 60
    jpeg = jpeg_of()
    request = (
        b"POST /extract HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
        + jpeg
    )
    async with served(harness.app, metrics) as connection:
        await connection.send(request)
        await until(lambda: harness.extractor.num_calls)
        if is_reset:
            connection.reset()
        else:
            connection.say_no_more()
        await until(lambda: harness.extractor.num_cancelled)
    assert harness.places.num_taken == 0
    harness.pool.close()


async def test_a_connection_serves_one_request_after_another_behind_the_limits(metrics: Metrics) -> None:
    harness = Harness()
    jpeg = jpeg_of()
    request = (
        b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg
    )
    async with served(harness.app, metrics) as connection:
        for pieces in (1, 2, 3):
            step = -(-len(request) // pieces)
            for start in range(0, len(request), step):
                await connection.send(request[start : start + step])
                await asyncio.sleep(0.01)
            assert (await connection.answer())[0] == 200
        await connection.send(request * 3)
        assert [(await connection.answer())[0] for _ in range(3)] == [200] * 3
    assert (harness.places.num_taken, harness.extractor.num_cancelled) == (0, 0)
    harness.pool.close()


def evicted(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("jetface_connections_evicted_total")


async def test_the_connection_that_was_silent_longest_makes_way_for_a_new_one(
    application: Application, metrics: Metrics
) -> None:
    async with served(application, metrics, most=2) as first, connected(first.port) as second:
        for connection in (first, second, first):
            await connection.send(GET + END)
            assert (await connection.answer())[0] == 200
        async with connected(first.port) as third:
            await third.send(GET + END)
            assert (await third.answer())[0] == 200
            assert await second.rest() == b""
            await first.send(GET + END)
            assert (await first.answer())[0] == 200
            assert (evicted(metrics), metrics.registry.get_sample_value("jetface_connections")) == (1, 2)


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        GET,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "a head whose body comes in chunks"],
)
async def test_who_began_a_request_and_fell_silent_makes_way(
    application: Application, metrics: Metrics, beginning: bytes
) -> None:
    async with served(application, metrics, most=1) as silent:
        await silent.send(beginning)
        await asyncio.sleep(0.05)
        async with connected(silent.port) as new:
            await new.send(GET + END)
            assert (await new.answer())[0] == 200
        assert await silent.rest() == b""


async def test_a_connection_is_refused_where_all_others_wait_for_an_answer(
    application: Application, metrics: Metrics
) -> None:
    async with served(application, metrics, most=1) as busy:
        await busy.send(b"GET /?0.5 HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: application.num_started)
        async with connected(busy.port) as new:
            status, error = await new.refusal()
            assert (status, error["code"]) == (429, "queue_full")
        assert (await busy.answer())[0] == 200
        assert evicted(metrics) == 0


async def test_between_two_requests_a_connection_may_be_silent_for_longer_than_within_one(
    connection: Connection,
) -> None:
    await connection.send(GET + END)
    assert (await connection.answer())[0] == 200
    await asyncio.sleep(3 * Hasty.head_timeout_s)
    await connection.send(GET)
    await asyncio.sleep(0.1)
    await connection.send(END)
    assert (await connection.answer())[0] == 200
    await connection.send(b"\r\n" + GET)
    assert (await connection.refusal())[0] == 408


@pytest.mark.slow
async def test_the_rest_of_a_refused_body_does_not_end_the_connection(metrics: Metrics) -> None:
    """It ends the wait for the next request only where it is not whole in time itself."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"no", 429)(scope, receive, send)

    async with served(refuse, metrics) as connection:
        for _ in range(2):
            await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
            assert (await connection.answer())[0] == 429
            await connection.send(b"cd")
            await asyncio.sleep(3 * Hasty.head_timeout_s)
        await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
        assert (await connection.answer())[0] == 429
        await connection.send(b"c")
        assert await connection.rest() == b""


def test_few_connections_are_accepted_before_others_are_served() -> None:
    """The kernel keeps the rest, as many as before."""
    loop = ServingLoop()
    made: list[int] = []
    turns = 0

    class Counting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(turns)
            transport.close()

    async def run() -> None:
        nonlocal turns
        server = await loop.create_server(Counting, "127.0.0.1", 0, backlog=256)
        clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(100)]
        while len(made) < len(clients):
            turns += 1
            await asyncio.sleep(0)
        for client in clients:
            client.close()
        server.close()

    with contextlib.closing(loop):
        loop.run_until_complete(run())
    assert max(Counter(made).values()) <= ACCEPTED_AT_ONCE


class TestCrowd:
    """Many connections come at once, each with a request."""

    def begun(self, paths: list[str], *, num_gone: int = 0) -> list[str]:
        """Return the paths of requests in the order in which they began, `/kept` on a connection that was there.

        Args:
            paths: Of those who come; all wait in the kernel before the first is accepted.
            num_gone: So many of them, the first, have gone by then.
        """
        begun: list[str] = []
        connections = Connections()

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            begun.append(scope["path"])
            await Response(b"aa")(scope, receive, send)

        async def run() -> None:
            async with served(application, Metrics(), connections=connections) as kept:
                await kept.send(GET + END)
                await kept.answer()
                begun.clear()
                clients = [socket.create_connection(("127.0.0.1", kept.port)) for _ in paths]
                for client, path in zip(clients, paths, strict=True):
                    client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf".encode())
                for client in clients[:num_gone]:
                    client.close()
                await kept.send(b"GET /kept HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: {"/kept", *paths[num_gone:]} <= set(begun))
                for client in clients:
                    client.close()
            await until(lambda: not connections.num_open)

        with contextlib.closing(ServingLoop()) as loop:
            loop.run_until_complete(run())
        return begun

    def test_health_is_answered_before_those_who_came_first(self) -> None:
        paths = [f"/extract/{number}" for number in range(90)]
        begun = self.begun([*paths[:80], "/health/live", *paths[80:]])
        assert begun.index("/health/live") < 20
        assert begun.index("/kept") < 5
        assert [path for path in begun if path in paths] == paths

    def test_the_requests_of_those_who_went_do_not_begin(self) -> None:
        begun = self.begun([*["/extract"] * 80, "/last"], num_gone=80)
        assert begun.count("/extract") < 40


class TestRefusalAtOnce:
    """Where every place is taken a POST is refused before the application hears of it, in the same words."""

    @contextlib.asynccontextmanager
    async def full(self, *, is_quick: bool = True, **options: Any) -> AsyncIterator[tuple[Harness, Connection]]:
        """A service whose only place is taken, and a connection to it."""
        connections = Connections()
        harness = Harness(max_in_flight=1, connections=connections if is_quick else None, **options)
        harness.extractor.delay_s = 60
        async with served(harness.app, harness.metrics, connections=connections) as first:
            await first.send(post("/extract", key="secret"))
            await until(lambda: harness.places.num_taken)
            async with connected(first.port) as connection:
                yield harness, connection
        harness.pool.close()

    @pytest.mark.parametrize("more", [b"", b"Accept: application/msgpack\r\n", b"X-Request-ID: mine\r\n"])
    @pytest.mark.parametrize("path", ["/extract", "/detect?threshold=0.5", "/faces/extract"])
    async def test_it_is_the_answer_of_the_application(self, path: str, more: bytes) -> None:
        answers, counts = [], []
        for is_quick in (True, False):
            async with self.full(is_quick=is_quick, root_path="/faces") as (harness, connection):
                for _ in range(2):
                    await connection.send(post(path, more))
                    head = await connection.until(END + END)
                    fields = dict(line.split(b": ", 1) for line in head.split(END)[1:] if line)
                    body = await connection.exactly(int(fields[b"content-length"]))
                    assert head.startswith(b"HTTP/1.1 429")
                    assert fields[b"x-request-id"] in body
                    body = body.replace(fields.pop(b"x-request-id"), b"")
                    del fields[b"server-timing"]
                    answers.append((sorted(fields.items()), body))
                value = harness.metrics.registry.get_sample_value
                labels = {"route": "/extract" if "extract" in path else "/detect", "status": "429"}
                counts.append(
                    (
                        value("jetface_requests_total", {**labels, "method": "POST"}),
                        value("jetface_request_seconds_count", labels),
                        value("jetface_refusals_total", {"code": "queue_full"}),
                    )
                )
        assert all(answer == answers[0] for answer in answers[1:])
        assert counts == [(2, 2, 2)] * 2

    async def test_the_application_hears_nothing_of_it_and_the_connection_goes_on(self) -> None:
        async with self.full() as (harness, connection):
            started = harness.drain.num_in_flight
            for size in (10, 2**20, 10):
                await connection.send(post("/extract", body=b"a" * size))
                assert (await connection.answer())[0] == 429
            assert harness.drain.num_in_flight == started
            await connection.send(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await connection.answer())[0] == 200
            await connection.send(post("/extract") * 3 + b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert [(await connection.answer())[0] for _ in range(4)] == [429, 429, 429, 200]

    async def test_whoever_may_not_come_in_is_told_that(self) -> None:
        async with self.full(access=Access(api_keys=("secret",))) as (_, connection):
            await connection.send(post("/extract", key="secret"))
            assert (await connection.answer())[0] == 429
            await connection.send(post("/extract"))
            assert (await connection.refusal())[0] == 401

    @pytest.mark.slow
    async def test_what_is_not_served_and_what_is_too_long_stay_what_they_are(self) -> None:
        async with self.full() as (_, connection):
            await connection.send(b"POST /extract HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
            assert (await connection.refusal())[0] == 413

    async def test_browsers_are_told_that_they_may_read_it(self) -> None:
        async with self.full(access=Access(cors_origins=("*",))) as (_, connection):
            await connection.send(post("/extract", b"Origin: https://a.example\r\n"))
            head = await connection.until(END + END)
            assert head.startswith(b"HTTP/1.1 429")
            assert b"access-control-allow-origin" in head


def post(path: str, more: bytes = b"", *, body: bytes | None = None, key: str = "") -> bytes:
    """Compose a request with a picture."""
    content = jpeg_of() if body is None else body
    if key:
        more += b"X-API-Key: %s\r\n" % key.encode()
    return (
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n%s\r\n"
        % (path.encode(), len(content), more)
    ) + content
