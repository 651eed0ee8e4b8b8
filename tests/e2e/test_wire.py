"""Clients that break the rules of HTTP, or do not care: each is refused or closed, and the others are answered.

With the starter models: what is tried here never gets as far as weights that matter.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import psutil
import pytest

from tests.support.answers import check_answer
from tests.support.fakes import jpeg_of
from tests.support.raw_http import Connection, connected
from tests.support.server import Server, running_server

REQUEST_TIMEOUT_S = 3
HOST = b"Host: localhost\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /detect HTTP/1.1\r\n" + HOST
JSON = POST + b"Content-Type: application/json\r\n"
JPEG = POST + b"Content-Type: image/jpeg\r\n"
BODY = b'{"images": {"data": []}}'
CHUNKED = JSON + b"Transfer-Encoding: chunked\r\n\r\n"
PICTURE = jpeg_of()
NUM_HALF_OPEN = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that gives up soon. It outlives every test of this file, and has nothing to hide in its log."""
    variables = {
        "MODEL_MIRROR": "", "REQUEST_TIMEOUT_S": str(REQUEST_TIMEOUT_S), "MAX_BODY_BYTES": str(2**20),
        "MODEL_PRELOAD": "1",
    }  # fmt: skip
    with running_server(tmp_path_factory.mktemp("wire"), variables) as started:
        started.wait_until_ready()
        yield started
        assert started.process.poll() is None
        assert "Traceback" not in started.read_log()


@pytest.fixture
def port(server: Server) -> int:
    return httpx.URL(server.url).port or 0


@pytest.fixture
async def connection(port: int) -> AsyncIterator[Connection]:
    async with connected(port) as opened:
        yield opened


def metric(server: Server, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])


async def answers_others(server: Server, num_rounds: int = 1) -> None:
    """A well-behaved client gets faces and health."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
        for _ in range(num_rounds):
            check_answer(await client.get("/health/ready"))
            answer = await client.post("/detect", content=PICTURE, headers={"content-type": "image/jpeg"})
            check_answer(answer)
            assert answer.json()["pictures"][0]["status"] == "ok"


async def until(condition: Any) -> None:
    """Wait for what the service does in the background."""
    for _ in range(300):
        if condition():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it did not happen")


LENGTHS_THAT_LIE = {
    "two": b"Content-Length: 24\r\nContent-Length: 5\r\n\r\n" + BODY,
    "twice the same": b"Content-Length: 24\r\nContent-Length: 24\r\n\r\n" + BODY,
    "a list": b"Content-Length: 24, 24\r\n\r\n" + BODY,
    "below zero": b"Content-Length: -1\r\n\r\n" + BODY,
    "with a sign": b"Content-Length: +24\r\n\r\n" + BODY,
    "hexadecimal": b"Content-Length: 0x18\r\n\r\n" + BODY,
    "nothing": b"Content-Length: \r\n\r\n" + BODY,
    "more than there are numbers": b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY,
    "beside chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "after chunks": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "compressed": b"Transfer-Encoding: gzip\r\n\r\n" + BODY,
    "chunks within": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunks, nearly": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunk of no number": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "chunk below zero": b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
    "chunk of all the memory there is": b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\nabc\r\n0\r\n\r\n",
    "chunk longer than said": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("lie", LENGTHS_THAT_LIE)
async def test_a_length_that_lies_is_400_and_the_end_of_the_connection(connection: Connection, lie: str) -> None:
    """Whoever guessed would let one request hide in another."""
    await connection.send(JSON + LENGTHS_THAT_LIE[lie])
    status, error = await connection.refusal()
    assert (status, error["code"]) == (400, "malformed_request")


NO_HTTP = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a later version": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: x\n\n",
    "a zero byte": b"GET / HTTP/1.1\r\nX-A: a\0b\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\r\n b\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "no path": b"GET extract HTTP/1.1\r\n\r\n",
    "bytes as path": b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    "a port that is none": b"GET http://a:99999999/ HTTP/1.1\r\n\r\n",
    "a tunnel": b"CONNECT other.example:443 HTTP/1.1\r\n\r\n",
    "mail": b"EHLO mail.example\r\n",
    "noise": bytes(range(256)) * 4,
}


@pytest.mark.parametrize("kind", NO_HTTP)
async def test_what_is_no_http_is_400(connection: Connection, kind: str) -> None:
    await connection.flood(NO_HTTP[kind])
    assert (await connection.refusal())[0] == 400


LONG_HEADS = {
    "url": b"GET /?" + b"a" * 2**17 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "header": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 2**17 + b"\r\n\r\n",
    "headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n",
    "chunk": CHUNKED + b"3;" + b"a" * 2**20,
    "trailers": CHUNKED + b"0\r\n" + b"X-A: b\r\n" * 20_000,
}


@pytest.mark.parametrize("kind", LONG_HEADS)
async def test_a_flood_of_headers_is_431(connection: Connection, kind: str) -> None:
    await connection.flood(LONG_HEADS[kind])
    status, error = await connection.refusal()
    assert (status, error["code"]) == (431, "head_too_long")


async def test_refusals_without_a_request_are_counted(server: Server, connection: Connection) -> None:
    counter = 'jetface_refusals_total{code="malformed_request"}'
    before = metric(server, counter)
    await connection.send(NO_HTTP["noise"])
    await connection.refusal()
    assert metric(server, counter) == before + 1


async def test_more_than_was_said_is_another_request(connection: Connection) -> None:
    """What follows a body is answered as itself, or ends the connection; it is never part of the body."""
    await connection.send(JSON + b"Content-Length: 24\r\n\r\n" + BODY + LIVE)
    assert (await connection.answer())[0] == 200
    assert await connection.answer() == (200, b'{"status":"alive"}')
    await connection.send(JSON + b"Content-Length: 20\r\n\r\n" + BODY)
    assert (await connection.refusal())[0] == 400


async def test_less_than_was_said_is_nobodys_request(server: Server, connection: Connection) -> None:
    """The client says that there is no more: its request is given up, not answered by half."""
    await connection.send(JSON + b"Content-Length: 100\r\n\r\n" + BODY)
    connection.say_no_more()
    assert await connection.rest() == b""
    await until(lambda: metric(server, "jetface_requests_in_flight") == 0)


async def test_no_length_is_no_body(connection: Connection) -> None:
    await connection.send(JSON + b"\r\n" + LIVE)
    assert (await connection.answer())[0] == 422
    assert (await connection.answer())[0] == 200


async def test_a_body_in_chunks(connection: Connection) -> None:
    """Of any size, with trailers that nobody asked for."""
    chunks = b"".join(b"%x\r\n%c\r\n" % (1, byte) for byte in BODY)
    await connection.send(CHUNKED + chunks + b"0\r\nX-Trailer: a\r\n\r\n" + LIVE)
    assert (await connection.answer())[0] == 200
    assert (await connection.answer())[0] == 200


@pytest.mark.parametrize(
    "head", [JPEG + b"Content-Length: 1000000000000\r\n\r\n", JPEG + b"Transfer-Encoding: chunked\r\n\r\n"]
)
async def test_more_than_is_taken_is_413(connection: Connection, head: bytes) -> None:
    """By its word, or when it has come."""
    await connection.send(head)
    for _ in range(3):
        if b"chunked" in head:
            await connection.flood(b"80000\r\n" + bytes(0x80000) + b"\r\n")
    connection.say_no_more()
    status, error = await connection.refusal()
    assert (status, error["code"]) == (413, "body_too_large")


async def test_who_sends_on_after_a_refusal_can_still_read_it(connection: Connection) -> None:
    """The connection is not reset under a client that sends first and reads then."""
    await connection.send(JPEG + b"Content-Length: %d\r\n\r\n" % 2**24)
    for _ in range(16):
        await connection.send(bytes(2**20))
    status, body = await connection.answer()
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")


async def test_who_asks_before_sending_is_told_to_go_on(connection: Connection) -> None:
    await connection.send(JSON + b"Content-Length: 24\r\nExpect: 100-continue\r\n\r\n")
    assert await connection.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.send(BODY)
    assert (await connection.answer())[0] == 200


async def test_requests_sent_ahead_are_answered_in_order(connection: Connection) -> None:
    await connection.send(
        b"".join(b"GET /models/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number + LIVE for number in range(8))
    )
    assert [(await connection.answer())[0] for _ in range(16)] == [404, 200] * 8


async def test_too_many_sent_ahead_end_the_connection(server: Server, connection: Connection) -> None:
    await connection.flood(LIVE * 5000)
    assert (await connection.refusal())[0] == 400
    await answers_others(server)


@pytest.mark.parametrize("host", [b"evil.example", b"", b"a b", b"x" * 1000])
async def test_no_answer_leads_to_the_host_that_a_client_names(connection: Connection, host: bytes) -> None:
    for path in (b"/extract/", b"//evil.example", b"http://evil.example/docs/"):
        await connection.send(b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        head = await connection.until(b"\r\n\r\n")
        assert b"location" not in head.lower()
        lines = head.lower().split(b"\r\n")
        await connection.exactly(int(next(line for line in lines if line.startswith(b"content-length"))[16:]))


async def trickle(connection: Connection, data: bytes) -> None:
    """Send a byte now and then, until the server has had enough."""
    try:
        for byte in data:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.3)
    except ConnectionError:
        return


SLOW = {
    "headers that trickle": (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"a" * 200, 408),
    "headers that stop": (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"", 408),
    "a body that trickles": (JPEG + b"Content-Length: 1000\r\n\r\n", b"a" * 200, 408),
    "a body that stops": (JPEG + b"Content-Length: 1000\r\n\r\na", b"", 408),
    "chunks that trickle": (CHUNKED, b"1\r\na\r\n" * 40, 408),
    "a form that stops": (
        POST + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n--b\r\n", b"", 408,
    ),
}  # fmt: skip


async def test_slow_clients_are_told_and_others_are_answered_meanwhile(server: Server, port: int) -> None:
    """Together, because each takes seconds: every kind of them ten times, and as many that say nothing at all."""

    async def be_slow(kind: str) -> int:
        head, then, _ = SLOW[kind]
        async with connected(port) as connection:
            await connection.send(head)
            sending = asyncio.create_task(trickle(connection, then))
            status, error = await connection.refusal()
            await sending
            assert error["code"] == "request_timeout"
            return status

    async def be_silent() -> None:
        async with connected(port) as connection:
            assert await connection.rest() == b""

    slow = [asyncio.create_task(be_slow(kind)) for kind in SLOW for _ in range(10)]
    silent = [asyncio.create_task(be_silent()) for _ in range(10)]
    await answers_others(server, num_rounds=20)
    assert await asyncio.gather(*slow) == [SLOW[kind][2] for kind in SLOW for _ in range(10)]
    await asyncio.gather(*silent)
    await until(lambda: metric(server, "jetface_requests_in_flight") == 0)


async def test_many_half_open_connections_keep_nobody_out(server: Server, port: int) -> None:
    """They cost a descriptor each, and no place: those are for requests."""
    process = psutil.Process(server.process.pid)
    before = process.num_fds()
    async with AsyncExitStack() as stack:
        for number in range(NUM_HALF_OPEN):
            opened = await stack.enter_async_context(connected(port))
            await opened.send(LIVE[: number % len(LIVE)])
        await answers_others(server, num_rounds=5)
        assert metric(server, "jetface_requests_in_flight") == 0
    await until(lambda: process.num_fds() <= before + 5)


async def test_clients_that_vanish_leave_nothing_behind(server: Server, port: int) -> None:
    """Reset in the middle of a body, and while their answer is made."""
    process = psutil.Process(server.process.pid)
    before = process.num_fds()
    whole = JPEG + b"Content-Length: %d\r\n\r\n" % len(PICTURE) + PICTURE
    for number in range(100):
        with socket.create_connection(("127.0.0.1", port)) as client:
            # Closed with a reset instead of a farewell.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(whole if number % 2 else whole[: len(whole) // 2])
    # What they left in flight ends by itself; meanwhile others may be refused for want of a place.
    await until(lambda: metric(server, "jetface_requests_in_flight") == 0)
    await answers_others(server, num_rounds=3)
    await until(lambda: metric(server, "jetface_requests_in_flight") == 0)
    await until(lambda: process.num_fds() <= before + 5)


async def test_head_has_no_body_on_the_wire(connection: Connection) -> None:
    """The next answer begins where the head of this one ends."""
    for path in (b"/", b"/health/live", b"/models", b"/nothing", b"/static-offline-docs/swagger-ui.css"):
        await connection.send(b"HEAD " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n" + LIVE)
        head = await connection.until(b"\r\n\r\n")
        assert head.split()[1] in {b"200", b"404"}
        assert await connection.answer() == (200, b'{"status":"alive"}')


async def test_an_offer_of_http2_with_a_body(connection: Connection) -> None:
    """What Java's own client sends with every request to a server without TLS."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
    await connection.send(JPEG + offer + b"Content-Length: %d\r\n\r\n" % len(PICTURE) + PICTURE)
    status, body = await connection.answer()
    assert (status, json.loads(body)["pictures"][0]["status"]) == (200, "ok")
