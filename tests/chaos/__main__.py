"""Run every scenario, or those named: `make chaos`, or `python -m tests.chaos [NAME ...]`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pkgutil
import platform
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

import tests.chaos

MOST_S = 300.0
"""Longest time a scenario may take, seconds."""


class OutOfTime(KeyboardInterrupt):
    """A scenario takes too long. Ends an event loop too, as an interrupt does: nothing catches it on the way."""


def scenario_names() -> list[str]:
    """Return the names of all scenarios, in order."""
    names = (module.name for module in pkgutil.iter_modules(tests.chaos.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def table_of(rows: Sequence[dict[str, object]]) -> str:
    """Return rows as a Markdown table. Columns stand in the order in which they first appear; none is left out."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([_written(row.get(name, "")) for name in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _written(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block, and once more a minute later, unless it ends in time."""

    def on_alarm(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTime(f"not done after {seconds:.0f} s")

    previous = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds, 60.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def main() -> None:
    """Run scenarios and print their tables. Exit code 1: one of them failed or took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="; ".join(scenario_names()) or "there is none")
    parser.add_argument("--seconds", type=float, default=MOST_S, help="longest time of a scenario")
    args = parser.parse_args()
    if unknown := set(args.names) - set(scenario_names()):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    sys.stdout.write(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    failed = []
    for name in args.names or scenario_names():
        scenario = importlib.import_module(f"tests.chaos.{name}")
        sys.stdout.write(f"\n## {name}\n\n{(scenario.__doc__ or '').strip()}\n\n")
        sys.stdout.flush()
        started = time.monotonic()
        try:
            with _within(args.seconds):
                sys.stdout.write(table_of(scenario.run()))
        except (Exception, OutOfTime):  # noqa: BLE001 - the others are still to be run
            traceback.print_exc(file=sys.stdout)
            failed.append(name)
        sys.stdout.write(f"\n{time.monotonic() - started:.0f} s\n")
        sys.stdout.flush()
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
