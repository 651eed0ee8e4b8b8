"""500 clients drip bodies, two bytes a second each, while others send pictures to a service with default settings.

Then 60 declare 60 MB each and drip after the first 257 KiB, on a service whose `BODY_BUDGET_BYTES` is 8 MiB, and the
others' pictures are large enough to be counted in it. Wanted: the others lose nothing. Those that are sent away come
again.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.bench.client import drive, post
from tests.bench.pictures import make_pictures
from tests.chaos._clients import misbehaving, probe, row_of_probes
from tests.support.server import Server, real_models, running_server
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

_LARGE = _HEAD + b"Content-Type: image/jpeg\r\nContent-Length: 60000000\r\n\r\n" + bytes(257 * 2**10)
_LARGE_PICTURE_BYTES = 600_000


def run() -> list[dict[str, object]]:
    """Send pictures by four clients beside each kind of dripper, and ask for the health."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        one = make_pictures(shared_dir() / "images", Path(folder))["one"]
        variables = real_models(shared_dir() / "models")
        with running_server(Path(folder), variables) as server:
            _add_rows(rows, "500 drip", server, one.as_raw(), {name: (500, *each) for name, each in _FIRST.items()})
        large = post("/extract", one.path.read_bytes().ljust(_LARGE_PICTURE_BYTES, b"\0"), "image/jpeg")
        with running_server(Path(folder), {**variables, "BODY_BUDGET_BYTES": str(2**23)}) as server:
            kinds = {"nobody, others' bodies are large": (0, None, b""), "60 large bodies": (60, _LARGE, b"\xff")}
            _add_rows(rows, "500 drip", server, large, kinds)
    return rows


def _add_rows(
    rows: list[dict[str, object]],
    title: str,
    server: Server,
    request: bytes,
    kinds: Mapping[str, tuple[int, bytes | None, bytes]],
) -> None:
    """Send a request again and again beside each kind of so many drippers, of what they send at first and then."""
    port = int(server.url.rpartition(":")[2])
    asyncio.run(drive(port, request, clients=4, seconds=2))
    for name, (clients, first, drip) in kinds.items():
        if first is None:
            rows.append({title: name, **asyncio.run(_ordinary(port, request))})
        else:
            with misbehaving(port, clients=clients, first=first, drip=drip):
                rows.append({title: name, **asyncio.run(_ordinary(port, request))})


async def _ordinary(port: int, request: bytes) -> dict[str, object]:
    load, took_s = await asyncio.gather(
        drive(port, request, clients=4, seconds=_SECONDS), probe(port, _SECONDS, keeps=False)
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
