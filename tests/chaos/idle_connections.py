"""1,100 connections say nothing, or begin and never end, to a service that may open 1,024 files (`ulimit -n 1024`).

Wanted: health answers within 50 ms throughout, on new connections and on a kept one, and the log stays short. Those
that are closed to make room come again, a second later.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.chaos._clients import misbehaving, probe, row_of_probes
from tests.support.server import running_server

_SECONDS = 8.0
_FIRST = {
    "nobody": None,
    "silent": b"",
    "half a head": b"POST /extract HTTP/1.1\r\nHost: x\r\n",
    "half a body": (
        b"POST /extract HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 100000\r\n\r\n\xff\xd8"
    ),
}


async def _both(port: int) -> tuple[list[float], list[float]]:
    fresh, kept = await asyncio.gather(probe(port, _SECONDS, keeps=False), probe(port, _SECONDS, keeps=True))
    return fresh, kept


def run() -> list[dict[str, object]]:
    """Probe beside each kind of connection; one row for each way to probe."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        limited = ("prlimit", "--nofile=1024:1024", "--")
        with running_server(Path(folder), {}, prefix=limited) as server:
            port = int(server.url.rpartition(":")[2])
            for name, first in _FIRST.items():
                num_lines = server.read_log().count("\n")
                if first is None:
                    probed = asyncio.run(_both(port))
                else:
                    with misbehaving(port, clients=1100, first=first):
                        probed = asyncio.run(_both(port))
                num_lines = server.read_log().count("\n") - num_lines
                for way, took_s in zip(("new", "kept"), probed, strict=True):
                    rows.append({"1,100 are": name, "connection": way, **row_of_probes(took_s), "log lines": num_lines})
    return rows
