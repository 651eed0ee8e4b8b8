"""Closed-loop HTTP clients, lean enough to share two cores with the server they measure (0.1 ms a request)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class Load:
    """What a number of clients saw."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    ok_s: list[float] = field(default_factory=list)
    """Latency of each answer 200, seconds."""
    refused_s: list[float] = field(default_factory=list)
    """Latency of each answer 429 or 503, seconds."""

    @property
    def ok_per_s(self) -> float:
        """Requests answered 200, per second."""
        return len(self.ok_s) / self.seconds if self.seconds else 0.0

    def percentile_ms(self, q: float) -> float:
        """The q-th percentile of the latency of answers 200, milliseconds; NaN without any."""
        return float(np.percentile(self.ok_s, q)) * 1000 if self.ok_s else float("nan")


def post(path: str, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> bytes:
    """Compose one HTTP/1.1 POST, to be sent as it is again and again."""
    lines = [f"POST {path} HTTP/1.1", "Host: bench", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str) -> bytes:
    """Compose one HTTP/1.1 GET."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Read one answer with a Content-Length: (status, body, whether the server closes the connection)."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    start = head.index(b"content-length:") + 15
    body = await reader.readexactly(int(head[start : head.index(b"\r\n", start)]))
    return status, body, b"connection: close" in head


async def drive(port: int, request: bytes, *, clients: int, seconds: float, think_s: float = 0.0) -> Load:
    """Let `clients` send `request` again and again for `seconds`, each as soon as it has its last answer."""
    load = Load()
    started = time.perf_counter()
    end = started + seconds

    async def client() -> None:
        reader = writer = None
        while time.perf_counter() < end:
            if writer is None or reader is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
            sent = time.perf_counter()
            try:
                writer.write(request)
                status, _, closes = await read_answer(reader)
            except (ConnectionError, asyncio.IncompleteReadError):
                status, closes = 0, True
            took_s = time.perf_counter() - sent
            load.statuses[status] += 1
            if status == 200:
                load.ok_s.append(took_s)
            elif status in (429, 503):
                load.refused_s.append(took_s)
            if closes:
                writer.close()
                reader = writer = None
            if think_s:
                await asyncio.sleep(think_s)
        if writer is not None:
            writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - started
    return load


_MOST_IDLE_S = 3.0


class _Connection(asyncio.Protocol):
    """One connection that sends a request again and again; a tenth of what streams and a task a request cost."""

    def __init__(self, load: Load, idle: list[_Connection]) -> None:
        self._load = load
        self._idle = idle
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._due = 0.0
        self._idle_since = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether the server is sure to keep it open yet: it closes what was idle for five seconds."""
        return time.perf_counter() - self._idle_since < _MOST_IDLE_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to send."""
        self._transport = transport  # type: ignore[assignment]  # a TCP connection's transport writes

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due at `due`."""
        self._due = due
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Note an answer that is complete."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        head = head.lower()
        start = head.index(b"content-length:") + 15
        if len(body) < int(head[start:].partition(b"\r\n")[0]):
            return
        self._received = b""
        status = int(head[9:12])
        took_s = time.perf_counter() - self._due
        self._load.statuses[status] += 1
        (self._load.ok_s if status == 200 else self._load.refused_s).append(took_s)
        if b"connection: close" in head and self._transport is not None:
            self._transport.close()
        else:
            self._idle_since = time.perf_counter()
            self._idle.append(self)

    def close(self) -> None:
        """Give the connection up."""
        if self._transport is not None:
            self._transport.close()


async def offer(port: int, request: bytes, *, rate_per_s: float, seconds: float) -> Load:
    """Send `request` at a fixed rate whatever comes back: what a service meets when its callers do not wait.

    A connection is used again when the server leaves it open. Latencies count from when a request was due, in steps of
    2 ms.
    """
    load = Load()
    loop = asyncio.get_running_loop()
    idle: list[_Connection] = []
    started = time.perf_counter()
    num_sent = 0
    while (now := time.perf_counter() - started) < seconds:
        while num_sent < now * rate_per_s:
            if idle and not idle[-1].is_fresh:
                # The last one was used last.
                for stale in idle:
                    stale.close()
                idle.clear()
            if idle:
                connection = idle.pop()
            else:
                _, connection = await loop.create_connection(lambda: _Connection(load, idle), "127.0.0.1", port)
            connection.send(request, started + num_sent / rate_per_s)
            num_sent += 1
        await asyncio.sleep(0.002)
    load.seconds = time.perf_counter() - started
    num_in_time = len(load.ok_s)
    for _ in range(1000):
        if sum(load.statuses.values()) == num_sent:
            break
        await asyncio.sleep(0.01)
    load.statuses[0] += num_sent - sum(load.statuses.values())
    # Those answered after the last was sent count for latency, but not for the rate.
    load.seconds *= len(load.ok_s) / num_in_time if num_in_time else 1.0
    for connection in idle:
        connection.close()
    return load
