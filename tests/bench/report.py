"""One table, one JSON file, two plots."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.bench.load import OtherLoad

SETTLED = 0.05
"""Largest spread of a median that is taken for settled."""

_QUIET_SHARE = 0.05
"""Of the processors, what may run besides before a machine is called busy."""


@dataclass(slots=True)
class Row:
    """Medians of one scenario over the rounds."""

    scenario: str
    clients: int
    pictures_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_picture: float
    rss_mib: float
    statuses: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of one ratio over the rounds."""

    value: float
    spread: float | None = None
    """Half the width of the median's 95 % confidence interval over the median; None where there are too few rounds."""

    @property
    def is_settled(self) -> bool:
        """Whether it needs no more rounds."""
        return self.spread is not None and self.spread <= SETTLED


@dataclass(slots=True)
class Report:
    """What a run measured."""

    cores: int
    commit: str
    rounds: int = 0
    load: OtherLoad | None = None
    rows: list[Row] = field(default_factory=list)
    ratios: dict[str, Ratio] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    """What was measured once."""

    def table(self) -> str:
        """Return the rows and ratios as Markdown, below what else ran and how sure the ratios are."""
        lines = [
            f"{platform.machine()}, {self.cores} cores, Python {platform.python_version()}, commit {self.commit}",
            "",
            *self._words_on_load(),
            *self._words_on_spread(),
            "",
            "| scenario | clients | pictures/s | p50 ms | p99 ms | CPU ms/picture | RSS MiB | statuses |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.scenario} | {row.clients} | {_number(row.pictures_per_s)} | {_number(row.p50_ms)} "
            f"| {_number(row.p99_ms)} | {_number(row.cpu_ms_per_picture)} | {_number(row.rss_mib, digits=0)} "
            f"| {' '.join(f'{status}:{count}' for status, count in sorted(row.statuses.items()))} |"
            for row in self.rows
        ]
        lines += ["", "| ratio | median | spread |", "|---|---|---|"]
        lines += [f"| {name} | {ratio.value:.2f} | {_spread(ratio)} |" for name, ratio in self.ratios.items()]
        if self.facts:
            lines += ["", "| measured once | |", "|---|---|"]
            lines += [f"| {name} | {_number(value, digits=2)} |" for name, value in self.facts.items()]
        return "\n".join(lines) + "\n"

    def _words_on_load(self) -> Iterator[str]:
        if self.load is None:
            yield "Other load: not known, the run was too short."
            return
        yield self.load.sentence()
        if self.load.median_share > _QUIET_SHARE:
            yield "The machine was busy: rates and latencies are of what was left; CPU ms a picture says more."

    def _words_on_spread(self) -> Iterator[str]:
        unsettled = [name for name, ratio in self.ratios.items() if not ratio.is_settled]
        rounds = "1 round" if self.rounds == 1 else f"{self.rounds} rounds"
        told = (
            f"Medians of {rounds}. Spread: half the 95 % confidence interval of a median (order statistics), over it."
        )
        if any(self.ratios[name].spread is None for name in unsettled):
            yield f"{told} It takes 6 rounds to tell."
        elif unsettled:
            yield f"{told} **Not under {SETTLED:.0%}** for {len(unsettled)} of {len(self.ratios)}, marked below."
        else:
            yield f"{told} Under {SETTLED:.0%} for all."

    def write(self, folder: Path) -> None:
        """Write `table.md`, `report.json` and, where matplotlib is installed, `throughput.png` and `p99.png`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(self.table(), encoding="utf-8")
        (folder / "report.json").write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        self._plot(folder, "pictures_per_s", "pictures/s", "throughput.png")
        self._plot(folder, "p99_ms", "p99, ms", "p99.png")

    def _plot(self, folder: Path, field_name: str, label: str, file_name: str) -> None:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 4))
        for scenario in dict.fromkeys(row.scenario for row in self.rows):
            points = [(row.clients, getattr(row, field_name)) for row in self.rows if row.scenario == scenario]
            if len(points) > 1:
                axes.plot(*zip(*sorted(points), strict=True), marker="o", label=scenario)
        axes.set(xscale="log", yscale="log", xlabel="clients", ylabel=label)
        axes.grid(visible=True, alpha=0.3)
        if axes.lines:
            axes.legend()
        figure.tight_layout()
        figure.savefig(folder / file_name, dpi=110)
        plt.close(figure)


def _number(value: float, *, digits: int = 1) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _spread(ratio: Ratio) -> str:
    if ratio.spread is None:
        return "-"
    return f"{ratio.spread:.1%}" if ratio.is_settled else f"**{ratio.spread:.1%}**"


def median_row(rows: list[Row]) -> Row:
    """Return the median of each figure over rounds of the same scenario; statuses add up."""
    statuses: dict[str, int] = {}
    for row in rows:
        for status, count in row.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    figures = ("pictures_per_s", "p50_ms", "p99_ms", "cpu_ms_per_picture", "rss_mib")
    medians = {name: statistics.median(getattr(row, name) for row in rows) for name in figures}
    return Row(scenario=rows[0].scenario, clients=rows[0].clients, statuses=statuses, **medians)
