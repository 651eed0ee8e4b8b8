"""What the API itself costs the event loop: the real server and application over an extractor that does nothing.

Beside it a bare ASGI application on the same server, which reads the same body and answers as many bytes: what is left
of the difference is our own. Prints the median of the rounds, CPU microseconds a request of the thread that runs the
loop. Run with `python -m tests.bench.api`.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from jetface.domain import Embedding, ExtractOptions, Face, PictureResult, StageTimes
from jetface.imaging.sources import PictureSource
from jetface.logs import configure_logs
from tests.bench.client import drive, post
from tests.bench.host import cpu_s
from tests.support.fakes import FakeExtractor, Harness
from tests.support.server import free_port, running

_SERVER = ("uvicorn", "--factory", "--http", "jetface.server.protocol:BoundedProtocol", "--ws", "none",
           "--no-access-log",
           "--no-server-header", "--no-proxy-headers", "--log-level", "warning")  # fmt: skip
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**26)}
"""What glibc comes to by itself once a service has decoded pictures: here it would give a body's pages back or not, as
luck has it."""
_PICTURE_BYTES = 130_000
_ANSWER_BYTES = 6_000


class _Idle(FakeExtractor):
    """Answers each picture with the same face, after one turn of the loop."""

    def __init__(self) -> None:
        super().__init__()
        chance = np.random.default_rng(0)
        vector = chance.standard_normal(512, np.float32)
        face = Face(
            image_index=0, box=chance.random(4, np.float32), score=0.8, landmarks=chance.random((5, 2), np.float32),
            embedding=Embedding(vector / np.linalg.norm(vector), 20.5),
        )  # fmt: skip
        times = StageTimes(decode_s=0.001, queue_s=0.002, detect_s=0.003, align_s=0.0001, recognize_s=0.004)
        self._result = PictureResult(
            image_index=0, faces=(face,), image_hw=(886, 1280), detection_scale=0.5, times=times, took_s=0.02
        )

    async def extract(
        self, sources: Sequence[PictureSource], options: ExtractOptions, *, deadline: float, whose: str | None = None
    ) -> list[PictureResult]:
        """Find the same face in each."""
        del options, deadline, whose
        await asyncio.sleep(0)
        return [self._result] * len(sources)


def idle_app() -> FastAPI:
    """Build the application over an extractor that does nothing."""
    configure_logs(os.environ.get("LOG_LEVEL", "INFO"), "json" if os.environ.get("LOG_FORMAT") == "json" else "text")
    return Harness(max_in_flight=256, extractor=_Idle()).app


class _Bare:
    """Reads a body and answers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError  # uvicorn goes on without a lifespan
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await asyncio.sleep(0)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % _ANSWER_BYTES)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(_ANSWER_BYTES)})


def bare_app() -> _Bare:
    """Build the application beside which ours is measured."""
    return _Bare()


@contextmanager
def _serving(factory: str, folder: Path, loop: str) -> Iterator[tuple[int, int]]:
    """Start a server; yield its port and process."""
    port = free_port()
    command = [sys.executable, "-m", *_SERVER, "--loop", loop, "--port", str(port), f"tests.bench.api:{factory}"]
    with running(command, port, folder / f"{factory}.log", {**_ALLOCATOR, **os.environ}) as server:
        server.wait_until_listening()
        yield port, server.process.pid


def _request() -> bytes:
    return post("/extract?threshold=0.5", os.urandom(_PICTURE_BYTES), "image/jpeg")


@click.command()
@click.option("--clients", default=16)
@click.option("--seconds", default=2.0)
@click.option("--rounds", default=5)
@click.option("--loop", default="asyncio", help="uvicorn's --loop.")
def main(clients: int, seconds: float, rounds: int, loop: str) -> None:
    """Measure what the API costs a request."""
    request = _request()
    found: dict[str, list[float]] = {"bare_app": [], "idle_app": []}
    with (
        TemporaryDirectory() as folder,
        _serving("bare_app", Path(folder), loop) as bare,
        _serving("idle_app", Path(folder), loop) as idle,
    ):
        servers = {"bare_app": bare, "idle_app": idle}
        for port, _ in servers.values():
            asyncio.run(drive(port, request, clients=clients, seconds=0.5))
        for _ in range(rounds):
            for name, (port, pid) in servers.items():
                before, _ = cpu_s(pid)
                load = asyncio.run(drive(port, request, clients=clients, seconds=seconds))
                after, _ = cpu_s(pid)
                if set(load.statuses) != {200}:
                    raise click.ClickException(f"{name}: {dict(load.statuses)}")
                found[name].append(1e6 * (after - before) / len(load.ok_s))
    for name, each in found.items():
        sys.stdout.write(f"{name}: {statistics.median(each):.0f} us (from {min(each):.0f} to {max(each):.0f})\n")
    own = statistics.median(found["idle_app"]) - statistics.median(found["bare_app"])
    sys.stdout.write(f"ours beyond the server's: {own:.0f} us\n")


if __name__ == "__main__":
    main()
