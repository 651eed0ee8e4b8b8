"""When rounds are enough: the ratios of each, and how sure their medians are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from tests.bench.report import Ratio, Row

Rows: TypeAlias = Mapping[tuple[str, int], Row]
"""Of one round, by scenario and clients."""

_CONFIDENCE = 0.95


def spread_of_median(values: Sequence[float]) -> float | None:
    """Return how far a median may be off: half the width of its 95 % confidence interval, relative to it.

    The interval lies between two order statistics, so nothing is assumed of how values are distributed: the true median
    is below the k-th of n with the chance that fewer than k of n coins show heads. Six values are the fewest for 95 %.

    Args:
        values: Of independent rounds, above 0.

    Returns:
        None for fewer than six.

    Source: Conover, Practical Nonparametric Statistics, 3rd edition, 3.2.
    """
    ordered, n = sorted(values), len(values)
    below, chance = 0, 0.0
    while (chance := chance + math.comb(n, below) / 2**n) <= (1 - _CONFIDENCE) / 2:
        below += 1
    if not below:
        return None
    return (ordered[n - below] - ordered[below - 1]) / 2 / statistics.median(ordered)


def medians(ratios: Mapping[str, Sequence[float]]) -> dict[str, Ratio]:
    """Return the median of each ratio, by name, from its values in each round."""
    return {name: Ratio(statistics.median(values), spread_of_median(values)) for name, values in ratios.items()}


def are_enough(ratios: Mapping[str, Sequence[float]], *, most_rounds: int) -> bool:
    """Return whether to stop: all medians are settled, or there were as many rounds as there may be."""
    num_rounds = max((len(values) for values in ratios.values()), default=0)
    if num_rounds >= most_rounds:
        return True
    return num_rounds > 0 and all(ratio.is_settled for ratio in medians(ratios).values())


def ratios_of(rows: Rows, *, cores: int, peers: Sequence[str]) -> dict[str, float]:
    """Return the ratios of one round, by name; without those of which something was not measured.

    Args:
        rows: What was measured; floors have `cores` clients, peers have one.
        cores: Of this machine.
        peers: Libraries that were measured in process.
    """

    def get(scenario: str, clients: int, figure: str) -> float:
        row = rows.get((scenario, clients))
        return math.nan if row is None else float(getattr(row, figure))

    def rate(scenario: str, clients: int) -> float:
        return get(scenario, clients, "pictures_per_s")

    def cpu(scenario: str, clients: int) -> float:
        return get(scenario, clients, "cpu_ms_per_picture")

    ratios = {
        "one face, 4 clients: over the floor": rate("one", 4) / rate("floor, one", cores),
        "six faces, 4 clients: over the floor": rate("six", 4) / rate("floor, six", cores),
        "one face, 4 clients: CPU ms a picture over the floor's": cpu("one", 4) / cpu("floor, one", cores),
        "crowd, one client: time over the floor's": get("crowd", 1, "p50_ms") * rate("floor, crowd", cores) / 1000,
        "64 clients over 4: pictures/s": rate("one", 64) / rate("one", 4),
        "six faces, rotations=auto over none: pictures/s": rate("six, rotations=auto", 4) / rate("six", 4),
        "one face upside down, rotations=auto over upright, none: pictures/s": (
            rate("one upside down, rotations=auto", 4) / rate("one", 4)
        ),
    }
    for scenario in ("one, BACKEND=auto", "one, OpenVINO bf16"):
        ratios[f"{scenario}, 4 clients: over the floor"] = rate(scenario, 4) / rate("floor, one", cores)
    for peer in peers:
        ratios[f"one client: p50 over {peer}'s"] = get("one", 1, "p50_ms") / get(f"{peer}, one", 1, "p50_ms")
        for picture in ("one", "six", "crowd"):
            ratios[f"{picture}, 4 clients: over {peer}"] = rate(picture, 4) / rate(f"{peer}, {picture}", 1)
            ratios[f"{picture}, one client: CPU ms a picture over {peer}'s"] = cpu(picture, 1) / cpu(
                f"{peer}, {picture}", 1
            )
    return {name: value for name, value in ratios.items() if not math.isnan(value)}
