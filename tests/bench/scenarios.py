"""What is measured of the running server; each scenario returns one row."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

import psutil

from tests.bench.client import Load, drive, get, offer, read_answer
from tests.bench.pictures import Picture
from tests.bench.report import Row


@dataclass(frozen=True, slots=True)
class Target:
    """The server under measurement."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds of the service's processes so far."""
        return float(sum(times.user + times.system for times in (process.cpu_times() for process in self._processes())))

    def rss_bytes(self) -> int:
        """Resident memory of the service's processes."""
        return sum(process.memory_info().rss for process in self._processes())

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]


def closed_loop(
    target: Target, scenario: str, request: bytes, *, clients: int, seconds: float, pictures_per_request: int = 1
) -> tuple[Row, Load]:
    """Let `clients` call as fast as they are answered."""
    cpu_s = target.cpu_s()
    load = asyncio.run(drive(target.port, request, clients=clients, seconds=seconds))
    return _row(target, scenario, load, target.cpu_s() - cpu_s, clients, pictures_per_request), load


def overload(target: Target, scenario: str, request: bytes, *, rate_per_s: float, seconds: float) -> tuple[Row, Load]:
    """Send at a fixed rate, whatever comes back."""
    cpu_s = target.cpu_s()
    load = asyncio.run(offer(target.port, request, rate_per_s=rate_per_s, seconds=seconds))
    return _row(target, scenario, load, target.cpu_s() - cpu_s, 0, 1), load


def _row(target: Target, scenario: str, load: Load, cpu_s: float, clients: int, pictures_per_request: int) -> Row:
    pictures = len(load.ok_s) * pictures_per_request
    return Row(
        scenario=scenario,
        clients=clients,
        pictures_per_s=pictures / load.seconds,
        p50_ms=load.percentile_ms(50),
        p99_ms=load.percentile_ms(99),
        cpu_ms_per_picture=cpu_s / pictures * 1000 if pictures else math.nan,
        rss_mib=target.rss_bytes() / 2**20,
        statuses={str(status): count for status, count in load.statuses.items()},
    )


def singles_beside_crowds(target: Target, single: Picture, crowd: Picture, *, seconds: float) -> tuple[Load, Load]:
    """Return what two clients of single faces saw alone, and beside a client that sends crowds all the time."""

    async def beside() -> Load:
        crowds = asyncio.create_task(drive(target.port, crowd.as_raw(), clients=1, seconds=seconds))
        load = await drive(target.port, single.as_raw(), clients=2, seconds=seconds)
        await crowds
        return load

    alone = asyncio.run(drive(target.port, single.as_raw(), clients=2, seconds=seconds))
    return alone, asyncio.run(beside())


def health_beside_a_crowd(target: Target, crowd: Picture, *, calls: int = 100) -> tuple[list[float], float]:
    """Return the latencies of health calls made while one crowd is processed, and the crowd's own, seconds."""

    async def one(request: bytes) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=2**26)
        started = time.perf_counter()
        writer.write(request)
        await read_answer(reader)
        writer.close()
        return time.perf_counter() - started

    async def all_of_them() -> tuple[list[float], float]:
        big = asyncio.create_task(one(crowd.as_raw()))
        await asyncio.sleep(0.05)
        latencies = [await one(get("/health/live")) for _ in range(calls)]
        return latencies, await big

    return asyncio.run(all_of_them())


def warm(target: Target, picture: Picture) -> None:
    """Make the server load its models and reach its steady state."""
    asyncio.run(drive(target.port, picture.as_raw(), clients=4, seconds=2))
