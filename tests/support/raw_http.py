"""A client that writes to a connection what it likes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

_PATIENCE_S = 30.0
"""Longest silence of a server that is busy; one that has forgotten the connection ends a test."""


class Connection:
    """One connection. What is read is HTTP/1.1 with declared lengths, as our service writes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Wrap what `asyncio.open_connection` returned; `connected` makes these."""
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Write, and wait until it is on its way."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Return status and body of the next answer."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), _PATIENCE_S)
        lines = head.lower().split(b"\r\n")
        length = next(int(line[16:]) for line in lines if line.startswith(b"content-length: "))
        return int(head.split()[1]), await asyncio.wait_for(self.reader.readexactly(length), _PATIENCE_S)

    async def rest(self) -> bytes:
        """Return everything until the connection is closed or reset."""
        found = b""
        with contextlib.suppress(ConnectionError):
            while piece := await asyncio.wait_for(self.reader.read(2**16), _PATIENCE_S):
                found += piece
        return found

    async def refusal(self) -> tuple[int, dict[str, Any]]:
        """Return status and error of the last answer; then the connection is closed."""
        head, _, body = (await self.rest()).rpartition(b"\r\n\r\n")
        last = head[head.rindex(b"HTTP/1.1 ") :]
        answer = json.loads(body)
        if b"connection: close" not in last or answer["request_id"].encode() not in last:
            raise AssertionError(last)
        error: dict[str, Any] = answer["error"]
        return int(last.split()[1]), error


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """Open a connection to a loopback port, and close it."""
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield connection
    finally:
        connection.writer.close()
        with contextlib.suppress(ConnectionError):
            await connection.writer.wait_closed()
