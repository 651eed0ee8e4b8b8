"""Clients that misbehave, in a process of their own, and one that asks for the service's health meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import resource
import socket
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event

import numpy as np

from tests.bench.client import get, read_answer

_PROBE_EVERY_S = 0.005
_AGAIN_S = 1.0
"""How often connections that the service closed are opened anew."""


def lift_descriptor_limit() -> None:
    """Allow this process as many connections as it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _misbehave(
    is_ready: Event, port: int, clients: int, first: bytes, drip: bytes, drip_every_s: float, seconds: float
) -> None:
    """Open connections as fast as they are taken, send `first`, then `drip` again and again."""
    lift_descriptor_limit()
    is_ready.set()
    time.sleep(0.5)
    end = time.monotonic() + seconds
    open_: list[socket.socket] = []
    dripped_at = time.monotonic()
    opened_at = float("-inf")
    while time.monotonic() < end:
        again = time.monotonic() - opened_at > _AGAIN_S
        opened_at = time.monotonic() if again else opened_at
        while again and len(open_) < clients:
            sock = socket.create_connection(("127.0.0.1", port))
            sock.settimeout(2)
            with contextlib.suppress(OSError):
                sock.sendall(first)
            sock.setblocking(False)
            open_.append(sock)
        drips = bool(drip) and time.monotonic() - dripped_at > drip_every_s
        dripped_at = time.monotonic() if drips else dripped_at
        kept = []
        for sock in open_:
            try:
                if drips:
                    sock.send(drip)
                has_closed = sock.recv(2**16, socket.MSG_DONTWAIT) == b""
            except BlockingIOError:
                has_closed = False
            except OSError:
                has_closed = True
            if has_closed:
                sock.close()
            else:
                kept.append(sock)
        open_ = kept
        time.sleep(0.05)


@contextlib.contextmanager
def misbehaving(
    port: int, *, clients: int, first: bytes = b"", drip: bytes = b"", drip_every_s: float = 0.5, seconds: float = 60
) -> Iterator[None]:
    """Have `clients` connections misbehave while inside, half a second after its beginning.

    Args:
        port: Of the service.
        clients: Connections; one that the service closes is opened anew.
        first: What each sends at once.
        drip: What each sends from then on.
        drip_every_s: How often.
        seconds: Longest time.
    """
    spawning = multiprocessing.get_context("spawn")
    is_ready = spawning.Event()
    arguments = (is_ready, port, clients, first, drip, drip_every_s, seconds)
    process = spawning.Process(target=_misbehave, args=arguments, daemon=True)
    process.start()
    try:
        is_ready.wait(30)
        yield
    finally:
        process.terminate()
        process.join()


async def probe(port: int, seconds: float, *, keeps: bool) -> list[float]:
    """Ask for `/health/live` every few milliseconds; return how long each answer took, seconds; infinite: none came."""
    request = get("/health/live")
    took_s = []
    end = time.perf_counter() + seconds
    writer = None
    while time.perf_counter() < end:
        started = time.perf_counter()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            status, _, closes = await read_answer(reader)
            took_s.append(time.perf_counter() - started if status == 200 else float("inf"))
        except (OSError, asyncio.IncompleteReadError):
            took_s.append(float("inf"))
            closes = True
        if writer is not None and (closes or not keeps):
            writer.close()
            writer = None
        await asyncio.sleep(_PROBE_EVERY_S)
    if writer is not None:
        writer.close()
    return took_s


def row_of_probes(took_s: list[float]) -> dict[str, object]:
    """Return figures of probes: how many, their latencies, those above 50 ms."""
    return {
        "health calls": len(took_s),
        "p50 ms": 1e3 * float(np.percentile(took_s, 50, method="nearest")),
        "p99 ms": 1e3 * float(np.percentile(took_s, 99, method="nearest")),
        "slowest ms": 1e3 * max(took_s),
        "above 50 ms": sum(s > 0.05 for s in took_s),
    }
