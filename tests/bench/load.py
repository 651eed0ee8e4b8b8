"""What else ran on the machine while something was measured."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import psutil
from typing_extensions import Self

_EVERY_S = 2.0
"""A sample costs some 10 ms of CPU."""

_MOST_NAMES = 4

ProcessKey: TypeAlias = tuple[str, int, float]
"""Name, pid and time of creation."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What counters said at one time; CPU seconds are since the boot or the start of a process."""

    at_s: float
    busy_s: float
    """In which processors did not idle, those included that a hypervisor gave to others."""
    own_s: float
    """Of this process and all its descendants."""
    load_average: float
    """Over the last minute."""
    others_s: Mapping[ProcessKey, float] = field(default_factory=dict)
    """Of each other process that can be seen."""


@dataclass(frozen=True, slots=True)
class OtherLoad:
    """What ran besides a measurement. Shares are of all processors, [0, 1]."""

    median_share: float
    most_share: float
    """Of the intervals between two samples."""
    median_load_average: float
    most_load_average: float
    """These count the measurement's own processes, too."""
    shares: dict[str, float]
    """Of processes of one name, largest first: those that could be seen."""

    def sentence(self) -> str:
        """Return it as a line of a report."""
        names = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items()) or "no process that can be seen"
        average = f"{self.median_load_average:.1f} (at most {self.most_load_average:.1f})"
        return (
            f"Other load: {self.median_share:.0%} of the processors (at most {self.most_share:.0%}; {names}); "
            f"load average {average}, which counts the bench, too."
        )


def other_load(samples: Sequence[Sample], num_processors: int) -> OtherLoad | None:
    """Return what ran between the first sample and the last; None for fewer than two."""
    if len(samples) < 2:
        return None
    shares: list[float] = []
    spent_s: Counter[str] = Counter()
    for before, after in pairwise(samples):
        others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
        # Counters step by a hundredth of a second: what is left of nothing may be below it.
        shares.append(max(0.0, others_s / (after.at_s - before.at_s) / num_processors))
        for process, cpu_s in after.others_s.items():
            spent_s[process[0]] += cpu_s - before.others_s.get(process, 0.0)  # type: ignore[assignment] # counts floats
    whole_s = (samples[-1].at_s - samples[0].at_s) * num_processors
    loads = [sample.load_average for sample in samples]
    return OtherLoad(
        statistics.median(shares),
        max(shares),
        statistics.median(loads),
        max(loads),
        {name: cpu_s / whole_s for name, cpu_s in spent_s.most_common(_MOST_NAMES) if cpu_s >= 0.01 * whole_s},
    )


def take_sample() -> Sample:
    """Read the counters now."""
    whole = psutil.cpu_times()
    own = psutil.Process()
    tree = [own, *own.children(recursive=True)]
    own_s = 0.0
    for process in tree:
        with suppress(psutil.Error):
            spent = process.cpu_times()
            # Its children that have ended are in its own counters.
            own_s += spent.user + spent.system + spent.children_user + spent.children_system
    own_pids = {process.pid for process in tree}
    others_s: dict[ProcessKey, float] = {}
    for process in psutil.process_iter(["name", "cpu_times", "create_time"]):
        spent = process.info["cpu_times"]
        if process.pid not in own_pids and spent is not None:
            others_s[process.info["name"], process.pid, process.info["create_time"]] = spent.user + spent.system
    # Of a guest they are counted among the user's, too.
    idle_s = whole.idle + getattr(whole, "iowait", 0.0)
    guest_s = getattr(whole, "guest", 0.0) + getattr(whole, "guest_nice", 0.0)
    return Sample(time.monotonic(), sum(whole) - idle_s - guest_s, own_s, psutil.getloadavg()[0], others_s)


class Sampler:
    """Takes samples every two seconds while it is entered, on a thread of its own."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End with one more sample."""
        self._ended.set()
        self._thread.join()

    def load(self) -> OtherLoad | None:
        """Return what ran so far; None before the second sample."""
        return other_load(self._samples.copy(), psutil.cpu_count() or 1)

    def _run(self) -> None:
        self._samples.append(take_sample())
        while not self._ended.wait(_EVERY_S):
            self._samples.append(take_sample())
        self._samples.append(take_sample())
