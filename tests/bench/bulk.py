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
from pathlib import Path

from jetface.cli.bulk_work import Work, _results, find
from jetface.cli.pictures import Picture, extract_each
from jetface.domain import ExtractOptions
from jetface.service import open_service
from jetface.settings import Settings, read_settings


async def by_service(settings: Settings, paths: list[str]) -> float:
    """Return pictures/s of a service that is open, its models loaded."""
    pictures = [Picture(Path(path), Path(path)) for path in paths]
    async with open_service(settings) as service:
        options = ExtractOptions(score_threshold=service.score_threshold, with_quality=True)
        async for _ in extract_each(service, pictures[:32], options):
            pass
        began = time.monotonic()
        async for _ in extract_each(service, pictures, options):
            pass
        return len(pictures) / (time.monotonic() - began)


def by_bulk(settings: Settings, paths: list[str], chunk: int) -> float:
    """Return pictures/s from the first chunk that is done to the last: Ray and models have started by then."""
    with tempfile.TemporaryDirectory() as out:
        work = Work(settings=settings, out=out, threshold=None, limit_faces=0)
        times, counts = [], []
        for each in _results(work, paths, None, 1, chunk):
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
    paths = find(str(args.folder), "path")
    ratios = []
    for _ in range(args.rounds):
        alone = asyncio.run(by_service(settings, paths))
        bulk = by_bulk(settings, paths, args.chunk)
        ratios.append(bulk / alone)
        sys.stdout.write(f"service {alone:.1f}/s, bulk {bulk:.1f}/s, ratio {ratios[-1]:.2f}\n")
        sys.stdout.flush()
    sys.stdout.write(f"median ratio {statistics.median(ratios):.2f}\n")


if __name__ == "__main__":
    main()
