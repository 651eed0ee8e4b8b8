"""A client whose body is refused while it still sends gets to read why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import ASGIApp

from jetface.server.context import DISCARDED_BODY_BYTES
from jetface.server.limits import Access
from jetface.server.middleware import LINGER_BYTES
from tests.support.asgi import RawRequest, chunks
from tests.support.fakes import Harness, jpeg_of

MEBIBYTE = 2**20


@pytest.fixture
def closed() -> ASGIApp:
    """A service that asks for a key."""
    return Harness(access=Access(api_keys=("secret",))).app


class Body:
    """Pieces of a body, counted as they are taken."""

    def __init__(self, num_pieces: int) -> None:
        self.num_pieces = num_pieces
        self.num_taken = 0

    async def pieces(self) -> AsyncIterator[bytes | None]:
        while self.num_taken < self.num_pieces:
            self.num_taken += 1
            yield bytes(MEBIBYTE)
        yield b""


def headers_of(num_bytes: int) -> dict[str, str]:
    return {"content-type": "image/jpeg", "content-length": str(num_bytes)}


async def test_the_answer_comes_first_then_the_rest_is_read_past(closed: ASGIApp) -> None:
    body = Body(8)
    refused = await RawRequest(body.pieces(), headers_of(8 * MEBIBYTE)).send_to(closed)
    assert (refused.status, refused.num_receives, body.num_taken) == (401, 0, 8)
    assert refused.headers["connection"] == "close"
    assert refused.is_closed


async def test_not_for_ever(closed: ASGIApp) -> None:
    """A body without an end is cut off."""
    body = Body(10 * LINGER_BYTES // MEBIBYTE)
    refused = await RawRequest(body.pieces(), {**headers_of(0), "transfer-encoding": "chunked"}).send_to(closed)
    assert (refused.status, refused.is_closed) == (401, True)
    assert body.num_taken <= LINGER_BYTES // MEBIBYTE


async def test_nor_for_long(closed: ASGIApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that trickles hold its connection."""
    monkeypatch.setattr("jetface.server.middleware.LINGER_S", 0.1)
    trickling = chunks(*[b"a"] * 1000, delay_s=0.05)
    refused = await asyncio.wait_for(RawRequest(trickling, headers_of(8 * MEBIBYTE)).send_to(closed), 30)
    assert (refused.status, refused.is_closed) == (401, True)


@pytest.mark.parametrize(
    ("num_bytes", "num_read"), [(0, 0), (1000, 0), (DISCARDED_BODY_BYTES, 0), (DISCARDED_BODY_BYTES + 1, 2)]
)
async def test_under_overload_a_short_body_is_left_to_the_server(num_bytes: int, num_read: int) -> None:
    """It reads past that itself, and keeps the connection."""
    busy = Harness(max_in_flight=1)
    busy.extractor.delay_s = 60
    first = asyncio.create_task(RawRequest(chunks(jpeg_of(), b""), {"content-type": "image/jpeg"}).send_to(busy.app))
    await asyncio.sleep(0.05)
    assert busy.places.num_taken == 1
    body = Body(2)
    refused = await RawRequest(body.pieces(), headers_of(num_bytes)).send_to(busy.app)
    assert (refused.status, body.num_taken, refused.is_closed) == (429, num_read, True)
    assert ("connection" in refused.headers) == bool(num_read)
    first.cancel()
    await asyncio.wait([first])
    busy.pool.close()


async def test_a_client_that_has_read_the_answer_ends_it(closed: ASGIApp) -> None:
    refused = await RawRequest(chunks(b"a", None), headers_of(8 * MEBIBYTE)).send_to(closed)
    assert (refused.status, refused.is_closed) == (401, True)
