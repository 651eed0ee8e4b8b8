"""Pictures/s of `jetface bulk` beside those of its own service without Ray, on the same pictures, by turns.

unshare --net sh -c 'ip link set lo up; python -m tests.bench.bulk ../shared/faces', as Ray listens on all addresses.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from jetface.cli.bulk import PICTURES_AT_ONCE, Work, results
from jetface.cli.embed import in_process
from jetface.cli.pictures import Wish, each_in_order
from jetface.cli.sources import Source, find
from jetface.settings import Settings, read_settings


async def by_service(settings: Settings, sources: Sequence[Source]) -> float:
    """Return pictures/s of a service that is open, its models loaded."""
    async with in_process(settings, Wish()) as embedder:
        async for _ in each_in_order(sources[:32], embedder.embed):
            pass
        began = time.monotonic()
        async for _ in each_in_order(sources, embedder.embed, PICTURES_AT_ONCE):
            pass
        return len(sources) / (time.monotonic() - began)


def by_bulk(settings: Settings, sources: Sequence[Source], chunk: int) -> float:
    """Return pictures/s from the first chunk that is done to the last: Ray and models have started by then."""
    with tempfile.TemporaryDirectory() as out:
        work = Work(settings=settings, out=out, wish=Wish())
        times, counts = [], []
        for each in results(work, [source.address for source in sources], None, 1, chunk):
            times.append(time.monotonic())
            counts.append(each["pictures"])
    return sum(counts[1:]) / (times[-1] - times[0])


def main() -> None:
    """Measure by turns; print both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=128)
    args = parser.parse_args()
    settings = read_settings()
    sources = find(str(args.folder), settings)
    ratios = []
    for _ in range(args.rounds):
        alone = asyncio.run(by_service(settings, sources))
        bulk = by_bulk(settings, sources, args.chunk)
        ratios.append(bulk / alone)
        sys.stdout.write(f"service {alone:.1f}/s, bulk {bulk:.1f}/s, ratio {ratios[-1]:.2f}\n")
        sys.stdout.flush()
    sys.stdout.write(f"median ratio {statistics.median(ratios):.2f}\n")


if __name__ == "__main__":
    main()
