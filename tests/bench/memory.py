"""Memory of the server: picture bombs, and thousands of pictures of varying sizes.

python -m tests.bench.memory --requests 10000
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tests.bench.client import post, read_answer
from tests.bench.scenarios import Target
from tests.support.pictures import read_image
from tests.support.server import real_models, running_server
from tests.support.shared import shared_dir

BOMB_HW = (6300, 6300)
"""39.7 million pixels, which a flat PNG holds in 131 kB."""

_MIB = 2**20


@dataclass(slots=True)
class Peak:
    """Most resident memory seen while a block ran, bytes."""

    rss_bytes: int = 0


@contextmanager
def watching(target: Target) -> Iterator[Peak]:
    """Sample the server's resident memory every 5 ms while inside."""
    peak, done = Peak(), threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            peak.rss_bytes = max(peak.rss_bytes, target.rss_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


async def send(port: int, requests: Iterator[bytes], *, clients: int) -> None:
    """Send every request once, `clients` at a time."""

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
        for request in requests:
            writer.write(request)
            _, _, closes = await read_answer(reader)
            if closes:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))


def bomb() -> bytes:
    """A small file that is a large picture."""
    encoded = cv2.imencode(".png", np.zeros((*BOMB_HW, 3), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    return post("/extract", encoded.tobytes(), "image/png")


def varying(images: Path, count: int) -> Iterator[bytes]:
    """JPEGs of one face in `count` random sizes and proportions, the same ones each time."""
    rng = np.random.default_rng(0)
    portrait = read_image(images / "ifrest_Stallone.jpg")
    sizes = rng.integers(64, 900, (count, 2)).tolist()
    for width, height in sizes:
        encoded = cv2.imencode(".jpg", cv2.resize(portrait, (width, height)))[1]
        yield post("/extract", encoded.tobytes(), "image/jpeg")


def main() -> None:
    """Print what the server's memory does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    args = parser.parse_args()
    shared = shared_dir()
    variables = {**real_models(shared / "models"), "LOG_LEVEL": "WARNING"}
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder), variables) as server:
        target = Target(port=int(server.url.rsplit(":", 1)[1]), pid=server.process.pid)
        asyncio.run(send(target.port, varying(shared / "images", 200), clients=4))
        before = target.rss_bytes()
        with watching(target) as peak:
            asyncio.run(send(target.port, iter([bomb()] * 4), clients=4))
        time.sleep(1)
        extra, kept = peak.rss_bytes - before, target.rss_bytes() - before
        sys.stdout.write(f"four PNG bombs at once: +{extra / _MIB:.0f} MiB, afterwards +{kept / _MIB:.0f} MiB\n")
        asyncio.run(send(target.port, varying(shared / "images", args.requests // 10), clients=4))
        early = target.rss_bytes()
        asyncio.run(send(target.port, varying(shared / "images", args.requests - args.requests // 10), clients=4))
        late = target.rss_bytes()
        sys.stdout.write(
            f"{args.requests} requests of varying sizes: {early / _MIB:.0f} MiB after a tenth, "
            f"{late / _MIB:.0f} MiB at the end: {100 * (late / early - 1):+.1f} %\n"
        )


if __name__ == "__main__":
    main()
