"""How an answer leaves: its head and its body in one piece."""

from __future__ import annotations

import asyncio

_CONTINUE = b"HTTP/1.1 100 "
_LONG_BYTES = 2**16
"""A body this long is not copied to save a system call."""


class HeadWithBody(asyncio.Transport):
    """A transport that keeps the head of an answer until its body comes: one system call and mostly one packet.

    uvicorn writes them one after the other, and each system call of the event loop lets go of the interpreter's lock,
    which it then has to wait for. Has what uvicorn asks of a transport while it answers; one object a connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        """Write to `transport`."""
        super().__init__()
        self._transport = transport
        self._head: bytes | None = None
        self._is_head_written = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep a head; write everything else, behind the head that was kept."""
        if self._is_head_written:
            self._transport.write(data)
        elif self._head is not None and len(data) < _LONG_BYTES:
            self._transport.write(self._head + data)
            self._head, self._is_head_written = None, True
        elif self._head is not None:
            self._write_head()
            self._transport.write(data)
        elif data[: len(_CONTINUE)] == _CONTINUE:
            self._transport.write(data)
        else:
            self._head = bytes(data)

    def flush(self) -> None:
        """End an answer: one without a body is written now, and a head comes next."""
        self._write_head()
        self._is_head_written = False

    def close(self) -> None:
        """Close when all is written."""
        self._write_head()
        self._transport.close()

    def is_closing(self) -> bool:
        """Tell whether it is closed or about to be."""
        return self._transport.is_closing()

    def _write_head(self) -> None:
        if self._head is not None:
            self._transport.write(self._head)
            self._head, self._is_head_written = None, True
