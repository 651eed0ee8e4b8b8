"""A mixed load for an hour: what the service's memory does, and which part of it.

python -m tests.bench.soak --minutes 60
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import psutil

from tests.bench.client import get, post, read_answer
from tests.bench.memory import bomb
from tests.support.pictures import read_image
from tests.support.server import real_models, running_server
from tests.support.shared import shared_dir

CLIENTS = 8
"""More than the smallest machine has cores: there is a queue, and requests of all kinds are in flight together."""

REST_S = 0.5
"""Between the last answer and a reading: connections that were given up are noticed, and what they held is let go."""

WARM_UP_SHARE = 0.2
"""Of the run: caches, arenas and pools fill; growth is judged from there on."""

_MIB = 2**20


@dataclass(slots=True)
class Memory:
    """Memory of a process and its children at one time, bytes."""

    minute: float
    rss: int = 0
    heap: int = 0
    """Of the main arena of malloc."""
    anonymous: int = 0
    """All other memory without a file: arenas of threads, large blocks, stacks."""
    files: int = 0
    """Code, and weights that are mapped."""

    @classmethod
    def of(cls, pid: int, minute: float) -> Memory:
        """Read `/proc/PID/smaps` of a process tree."""
        memory = cls(minute)
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            for mapping in process.memory_maps(grouped=False):
                memory.rss += mapping.rss
                if mapping.path == "[heap]":
                    memory.heap += mapping.rss
                elif mapping.path.startswith("["):
                    memory.anonymous += mapping.rss
                else:
                    memory.files += mapping.rss
        return memory


@dataclass(slots=True)
class Soak:
    """What came back, and what memory did."""

    statuses: Counter[str] = field(default_factory=Counter)
    readings: list[Memory] = field(default_factory=list)

    def growth_percent(self) -> float:
        """Return by how much the last fifth lies above the first one after the warm-up, by the least of each.

        Above it is what malloc keeps of freed memory, until a large picture has it give that back; a leak lifts the
        least, too.
        """
        warm = self._warm()
        width = max(1, len(warm) // 5)
        return 100 * (min(warm[-width:]) / min(warm[:width]) - 1)

    def spread_percent(self) -> float:
        """Return by how much the largest reading after the warm-up lies above the least."""
        warm = self._warm()
        return 100 * (max(warm) / min(warm) - 1)

    def _warm(self) -> list[int]:
        return [memory.rss for memory in self.readings[int(len(self.readings) * WARM_UP_SHARE) :]]


def mixed(images: Path, seed: int) -> Iterator[tuple[str, bytes | None]]:
    """Yield requests of every kind without end, each with its name; None: connect, send half a picture, and go."""
    rng = np.random.default_rng(seed)
    draw = random.Random(seed)
    portrait = read_image(images / "ifrest_Stallone.jpg")
    six = post("/extract?return_face_data=true", (images / "t1.jpg").read_bytes(), "image/jpeg")
    crowd = post("/extract", (images / "deepface_selfie-many-people.jpg").read_bytes(), "image/jpeg")
    bomb_request = bomb()

    def varied(extension: str) -> bytes:
        width, height = rng.integers(64, 1600, 2).tolist()
        return bytes(cv2.imencode(extension, cv2.resize(portrait, (width, height)))[1].tobytes())

    def several() -> bytes:
        pictures = [b64encode(varied(".jpg")).decode() for _ in range(draw.randint(2, 6))]
        return post("/extract", json.dumps({"images": {"data": pictures}}).encode(), "application/json")

    kinds: dict[str, tuple[int, Callable[[], bytes | None]]] = {
        "one face, any size": (60, lambda: post("/extract", varied(".jpg"), "image/jpeg")),
        "PNG": (8, lambda: post("/detect", varied(".png"), "image/png")),
        "six faces, crops back": (10, lambda: six),
        "a crowd": (2, lambda: crowd),
        "several in JSON": (8, several),
        "no picture": (4, lambda: post("/extract", os.urandom(draw.randint(1, 100_000)), "image/jpeg")),
        "a bomb": (1, lambda: bomb_request),
        "metrics": (3, lambda: get("/metrics")),
        "no such route": (2, lambda: get(f"/{draw.random()}")),
        "gone half-way": (2, lambda: None),
    }
    names, weights = list(kinds), [weight for weight, _ in kinds.values()]
    while True:
        (name,) = draw.choices(names, weights)
        yield name, kinds[name][1]()


async def outcome_of(
    request: bytes | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[str, bool]:
    """Send a request; return the status of its answer or what came instead, and whether the connection is done with."""
    try:
        if request is None:
            writer.write(post("/extract", bytes(100_000), "image/jpeg")[:50_000])
            await writer.drain()
            return "-", True
        writer.write(request)
        status, _, closes = await read_answer(reader)
    except (ConnectionError, asyncio.IncompleteReadError) as cause:
        return type(cause).__name__, True
    return str(status), closes


async def drive(port: int, pid: int, images: Path, *, seconds: float, every_s: float) -> Soak:
    """Let `CLIENTS` send mixed requests; now and then let all be answered, and read the memory.

    What requests in work hold would differ from reading to reading by more than any leak.
    """
    soak = Soak()
    started = time.monotonic()
    end = started + seconds
    may_send = asyncio.Event()
    may_send.set()
    in_work: set[int] = set()
    all_is_answered = asyncio.Event()
    all_is_answered.set()

    async def client(seed: int) -> None:
        requests = mixed(images, seed)
        closes = True
        while True:
            name, request = await asyncio.to_thread(next, requests)
            await may_send.wait()
            if time.monotonic() > end:
                break
            in_work.add(seed)
            all_is_answered.clear()
            if closes:  # only now: a connection on which nothing comes is closed
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
            outcome, closes = await outcome_of(request, reader, writer)
            soak.statuses[f"{name}: {outcome}"] += 1
            in_work.discard(seed)
            if not in_work:
                all_is_answered.set()
            if closes:
                writer.close()
        if not closes:
            writer.close()

    async def watch() -> None:
        while time.monotonic() < end:
            may_send.clear()
            await all_is_answered.wait()
            await asyncio.sleep(REST_S)
            soak.readings.append(await asyncio.to_thread(Memory.of, pid, (time.monotonic() - started) / 60))
            may_send.set()
            await asyncio.sleep(every_s)

    await asyncio.gather(watch(), *(client(seed) for seed in range(CLIENTS)))
    return soak


def table(readings: Sequence[Memory], rows: int = 12) -> str:
    """Return about `rows` readings, evenly spread, as Markdown; MiB."""
    step = max(1, len(readings) // rows)
    lines = ["| minute | resident | heap | other anonymous | files |", "|---|---|---|---|---|"]
    lines += [
        f"| {each.minute:.1f} | {each.rss / _MIB:.0f} | {each.heap / _MIB:.0f} | {each.anonymous / _MIB:.0f} | "
        f"{each.files / _MIB:.0f} |"
        for each in [*readings[::step], readings[-1]]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, what came back, and the growth after the warm-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a variable of the service")
    args = parser.parse_args()
    shared = shared_dir()
    variables = {
        **real_models(shared / "models"),
        "LOG_LEVEL": "WARNING",
        **dict(pair.split("=", 1) for pair in args.set),
    }
    load = os.getloadavg()[0]
    sys.stdout.write(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before the start, {args.set}\n\n")
    seconds = 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder), variables) as server:
        port = int(server.url.rsplit(":", 1)[1])
        every_s = min(15.0, seconds / 60)
        soak = asyncio.run(drive(port, server.process.pid, shared / "images", seconds=seconds, every_s=every_s))
    sys.stdout.write(table(soak.readings))
    for name, count in sorted(soak.statuses.items()):
        sys.stdout.write(f"{name}: {count}\n")
    sys.stdout.write(f"{soak.statuses.total()} requests; after the warm-up {soak.growth_percent():+.1f} %, ")
    sys.stdout.write(f"the largest reading {soak.spread_percent():.0f} % above the least\n")


if __name__ == "__main__":
    main()
