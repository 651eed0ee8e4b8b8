"""Requests a well-behaved client cannot make: silent, slow, gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.types import ASGIApp, Message


class RawRequest:
    """One request whose body arrives as `chunks` says; `None` among them means the client goes."""

    def __init__(self, chunks: AsyncIterator[bytes | None], headers: Mapping[str, str], path: str = "/extract") -> None:
        self._chunks = chunks
        self._answered = asyncio.Event()
        self.num_receives = 0
        """Messages read before the answer."""
        self.is_closed = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip

    async def send_to(self, app: ASGIApp) -> RawRequest:
        await app(self.scope, self._receive, self._send)
        return self

    @property
    def code(self) -> str:
        code: str = orjson.loads(self.body)["error"]["code"]
        return code

    async def _receive(self) -> Message:
        self.num_receives += not self._answered.is_set()
        async for chunk in self._chunks:
            if chunk is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": chunk, "more_body": chunk != b""}
        await self._answered.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self._answered.set()
            self.is_closed = not message.get("more_body", False)


async def chunks(*parts: bytes | None, delay_s: float = 0.0) -> AsyncIterator[bytes | None]:
    for part in parts:
        await asyncio.sleep(delay_s)
        yield part
