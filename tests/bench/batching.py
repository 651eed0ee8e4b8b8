"""The CPU time of a batcher, and the runs that a busy event loop costs its device.

Prints a table for lanes that return their items, in a closed loop of callers; then runs a second of a lane that always
has work.

Run with `python -m tests.bench.batching`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.metrics import Metrics

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
    batcher = Batcher("bench", lanes, max_batch=load.max_batch, max_waiting=10_000, metrics=Metrics())
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


RUN_S, SPIN_S = 0.002, 0.001
"""Seconds of a run, in which no lock is held, as on a GPU; seconds of Python in each turn of the loop."""


async def measure_busy() -> float:
    """Return runs a second of a lane that always has work, on a loop that has other work too."""
    num_runs, is_over = 0, False

    def run(items: Sequence[int]) -> Sequence[int]:
        nonlocal num_runs
        num_runs += 1
        time.sleep(RUN_S)
        return items

    async def spin() -> None:
        while not is_over:
            end = time.perf_counter() + SPIN_S
            while time.perf_counter() < end:
                pass
            await asyncio.sleep(0)

    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS_A_ROW

    async def call(caller: int) -> None:
        while (started := loop.time()) < end:
            await batcher.submit([caller], group=caller, deadline=started + 10)

    lane: Lane[int, int] = Lane(run=run)
    batcher = Batcher("bench", [lane], max_batch=8, max_waiting=1000, metrics=Metrics())
    spinner = asyncio.create_task(spin())
    await asyncio.gather(*(call(caller) for caller in range(32)))
    is_over = True
    await spinner
    await batcher.close()
    return num_runs / SECONDS_A_ROW


def main() -> None:
    """Print the tables."""
    sys.stdout.write(
        "| callers x items each | lanes, max_batch | CPU us an item | p50 us a call |\n|---|---|---|---|\n"
    )
    for load in LOADS:
        cpu_us, call_us = asyncio.run(measure(load))
        sys.stdout.write(
            f"| {load.num_callers} x {load.num_items} | {load.num_lanes}, {load.max_batch} "
            f"| {cpu_us:.0f} | {call_us:,.0f} |\n"
        )
    sys.stdout.write(
        f"\nRuns of {RUN_S * 1000:.0f} ms, {SPIN_S * 1000:.0f} ms of Python in each turn of the loop: "
        f"{asyncio.run(measure_busy()):.0f} a second\n"
    )


if __name__ == "__main__":
    main()
