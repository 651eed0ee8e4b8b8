"""A client that writes to a connection what it likes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

PATIENCE_S = 30.0
"""Longest silence of a server that is busy; one that has forgotten the connection ends a test."""


class Connection:
    """One connection. What is read is HTTP/1.1 with declared lengths, as our service writes it.

    On a bare socket: asyncio's streams forget what they have read when a write fails, and a server that has had enough
    answers while we write.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Wrap a connected socket; `connected` makes these."""
        self._sock = sock
        self._unread = bytearray()
        self.port: int = sock.getpeername()[1]

    async def send(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            ConnectionError: The server has closed.
        """
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self._sock, data), PATIENCE_S)

    async def flood(self, data: bytes) -> None:
        """Write as much as the server takes."""
        with contextlib.suppress(ConnectionError):
            await self.send(data)

    def say_no_more(self) -> None:
        """Close our side."""
        self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Go without a word: the server meets a reset."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    async def until(self, end: bytes) -> bytes:
        """Return what comes, up to and with `end`."""
        while end not in self._unread:
            await self._receive_some()
        return self._take(self._unread.index(end) + len(end))

    async def exactly(self, num_bytes: int) -> bytes:
        """Return the next bytes."""
        while len(self._unread) < num_bytes:
            await self._receive_some()
        return self._take(num_bytes)

    async def answer(self) -> tuple[int, bytes]:
        """Return status and body of the next answer."""
        head = await self.until(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[16:]) for line in lines if line.startswith(b"content-length: "))
        return int(head.split()[1]), await self.exactly(length)

    async def rest(self) -> bytes:
        """Return everything until the connection is closed or reset."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self._receive_some()
        return self._take(len(self._unread))

    async def refusal(self) -> tuple[int, dict[str, Any]]:
        """Return status and error of the last answer; then the connection is closed."""
        head, _, body = (await self.rest()).rpartition(b"\r\n\r\n")
        last = head[head.rindex(b"HTTP/1.1 ") :]
        answer = json.loads(body)
        if b"connection: close" not in last or answer["request_id"].encode() not in last:
            raise AssertionError(last)
        error: dict[str, Any] = answer["error"]
        return int(last.split()[1]), error

    async def _receive_some(self) -> None:
        """Raise ConnectionError where nothing more comes."""
        piece = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._sock, 2**16), PATIENCE_S)
        if not piece:
            raise ConnectionError("closed")
        self._unread += piece

    def _take(self, num_bytes: int) -> bytes:
        taken = bytes(self._unread[:num_bytes])
        del self._unread[:num_bytes]
        return taken


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """Open a connection to a loopback port, and close it."""
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port)), PATIENCE_S)
        yield Connection(sock)
