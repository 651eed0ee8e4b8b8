"""Times that can be compared: taken in turns, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

_WARM_RUNS = 4
"""Before the clock starts: the first allocates, the second captures."""

_LEAST_TURNS = 3


def take_turns(runs: Mapping[str, Callable[[], object]], *, seconds: float) -> dict[str, float]:
    """Return the median milliseconds of each, by name.

    Args:
        runs: What is timed; they take turns, so that clocks and neighbours treat them alike.
        seconds: After which no turn is begun, the warm-up aside.
    """
    for run in runs.values():
        for _ in range(_WARM_RUNS):
            run()
    times_ms: dict[str, list[float]] = {name: [] for name in runs}
    started, num_turns = time.perf_counter(), 0
    while num_turns < _LEAST_TURNS or time.perf_counter() - started < seconds:
        for name, run in runs.items():
            run_started = time.perf_counter()
            run()
            times_ms[name].append(1e3 * (time.perf_counter() - run_started))
        num_turns += 1
    return {name: statistics.median(times) for name, times in times_ms.items()}
