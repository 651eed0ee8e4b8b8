"""The head of an answer leaves with its body."""

from __future__ import annotations

import asyncio

import pytest

from jetface.server.protocol import HeadWithBody

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LONG = bytes(2**20)


class Recorder(asyncio.Transport):
    """Keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


@pytest.fixture
def transport() -> Recorder:
    return Recorder()


@pytest.fixture
def outlet(transport: Recorder) -> HeadWithBody:
    return HeadWithBody(transport)


def test_head_and_body_are_one_write(outlet: HeadWithBody, transport: Recorder) -> None:
    for _ in range(2):
        outlet.write(HEAD)
        assert not transport.written
        outlet.write(b"ab")
        outlet.flush()
        assert transport.written == [HEAD + b"ab"]
        transport.written.clear()


def test_the_rest_of_a_body_follows_at_once(outlet: HeadWithBody, transport: Recorder) -> None:
    for piece in (HEAD, b"a", b"b"):
        outlet.write(piece)
    assert transport.written == [HEAD + b"a", b"b"]


def test_a_long_body_is_not_copied(outlet: HeadWithBody, transport: Recorder) -> None:
    outlet.write(HEAD)
    outlet.write(LONG)
    outlet.write(b"end")
    assert transport.written == [HEAD, LONG, b"end"]


def test_an_answer_without_a_body_ends_all_the_same(outlet: HeadWithBody, transport: Recorder) -> None:
    """As to HEAD."""
    outlet.write(HEAD)
    outlet.flush()
    outlet.write(HEAD)
    outlet.close()
    assert transport.written == [HEAD, HEAD]
    assert outlet.is_closing()


def test_whoever_waits_for_leave_to_send_gets_it(outlet: HeadWithBody, transport: Recorder) -> None:
    outlet.write(CONTINUE)
    assert transport.written == [CONTINUE]
    outlet.write(HEAD)
    outlet.write(b"ab")
    assert transport.written == [CONTINUE, HEAD + b"ab"]
