"""What a batcher itself costs: lanes that return their items, a closed loop of callers. Prints one table.

Run with `python -m tests.bench.batching`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass

from app.batching.batcher import Batcher
from app.batching.lane import Lane
from app.batching.observer import MetricsObserver
from app.metrics import Metrics

SECONDS_A_ROW = 1.5


@dataclass(frozen=True, slots=True)
class Load:
    """One row: who calls, with how much, on what."""

    num_callers: int
    num_items: int
    num_lanes: int
    max_batch: int


LOADS = (Load(1, 1, 1, 32), Load(64, 1, 1, 32), Load(1, 64, 1, 32), Load(64, 1, 2, 1), Load(1, 64, 2, 1))


async def measure(load: Load) -> tuple[float, float]:
    """Return CPU microseconds an item and the median microseconds of a call."""
    lanes: list[Lane[int, int]] = [Lane(run=list) for _ in range(load.num_lanes)]
    observer = MetricsObserver(Metrics(), "bench")
    batcher = Batcher("bench", lanes, max_batch=load.max_batch, max_waiting=10_000, observer=observer)
    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS_A_ROW
    calls_s: list[float] = []

    async def call(caller: int) -> None:
        items = [caller] * load.num_items
        while (started := loop.time()) < end:
            await batcher.submit(items, group=caller, deadline=started + 10)
            calls_s.append(loop.time() - started)

    cpu_s = time.process_time()
    await asyncio.gather(*(call(caller) for caller in range(load.num_callers)))
    cpu_s = time.process_time() - cpu_s
    await batcher.close()
    return cpu_s / (len(calls_s) * load.num_items) * 1e6, sorted(calls_s)[len(calls_s) // 2] * 1e6


def main() -> None:
    """Print the table."""
    sys.stdout.write(
        "| callers x items each | lanes, max_batch | CPU us an item | p50 us a call |\n|---|---|---|---|\n"
    )
    for load in LOADS:
        cpu_us, call_us = asyncio.run(measure(load))
        sys.stdout.write(
            f"| {load.num_callers} x {load.num_items} | {load.num_lanes}, {load.max_batch} "
            f"| {cpu_us:.0f} | {call_us:,.0f} |\n"
        )


if __name__ == "__main__":
    main()
