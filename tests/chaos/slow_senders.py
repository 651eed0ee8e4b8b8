"""500 clients drip bodies, two bytes a second each, while others send pictures to a service with default settings.

Wanted: the others lose nothing. Those that are sent away come again.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.bench.client import drive
from tests.bench.pictures import make_pictures
from tests.chaos._clients import misbehaving, probe, row_of_probes
from tests.support.server import running_server
from tests.support.shared import shared_dir

_SECONDS = 15.0
"""Longer than a dripper is borne with."""

_HEAD = b"POST /extract HTTP/1.1\r\nHost: x\r\n"
_FIRST = {
    "nobody": (None, b""),
    "a picture": (_HEAD + b"Content-Type: image/jpeg\r\nContent-Length: 100000\r\n\r\n\xff", b"\xff"),
    "JSON": (_HEAD + b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{", b" "),
    "JSON in chunks": (
        _HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n \r\n"
    ),
}  # fmt: skip


def run() -> list[dict[str, object]]:
    """Send pictures by four clients beside each kind of dripper, and ask for the health."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        one = make_pictures(shared_dir() / "images", Path(folder))["one"]
        variables = {
            "DET_MODEL": "det_500m", "REC_MODEL": "w600k_mbf_dequantized", "MODEL_MIRROR": str(shared_dir() / "models")
        }  # fmt: skip
        with running_server(Path(folder), variables) as server:
            port = int(server.url.rpartition(":")[2])
            asyncio.run(drive(port, one.as_raw(), clients=4, seconds=2))

            async def ordinary(port: int = port) -> dict[str, object]:
                load, took_s = await asyncio.gather(
                    drive(port, one.as_raw(), clients=4, seconds=_SECONDS), probe(port, _SECONDS, keeps=False)
                )
                answered = {str(status): count for status, count in load.statuses.items() if status != 200}
                return {
                    "answered 200": load.statuses[200],
                    "otherwise": " ".join(f"{status}:{count}" for status, count in answered.items()) or 0,
                    "pictures/s": load.ok_per_s,
                    "p50 ms": load.percentile_ms(50),
                    "p99 ms": load.percentile_ms(99),
                    "health p99 ms": row_of_probes(took_s)["p99 ms"],
                }

            for name, (first, drip) in _FIRST.items():
                if first is None:
                    rows.append({"500 drip": name, **asyncio.run(ordinary())})
                else:
                    with misbehaving(port, clients=500, first=first, drip=drip):
                        rows.append({"500 drip": name, **asyncio.run(ordinary())})
    return rows
