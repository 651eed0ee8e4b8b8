"""One table, one JSON file, two plots."""

from __future__ import annotations

import json
import platform
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path


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


@dataclass(slots=True)
class Report:
    """What a run measured."""

    cores: int
    commit: str
    rows: list[Row] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)

    def table(self) -> str:
        """Return the rows and ratios as Markdown."""
        lines = [
            f"{platform.machine()}, {self.cores} cores, Python {platform.python_version()}, commit {self.commit}",
            "",
            "| scenario | clients | pictures/s | p50 ms | p99 ms | CPU ms/picture | RSS MiB | statuses |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.scenario} | {row.clients} | {row.pictures_per_s:.1f} | {row.p50_ms:.1f} | {row.p99_ms:.1f} "
            f"| {row.cpu_ms_per_picture:.1f} | {row.rss_mib:.0f} "
            f"| {' '.join(f'{status}:{count}' for status, count in sorted(row.statuses.items()))} |"
            for row in self.rows
        ]
        lines += ["", "| ratio | value |", "|---|---|"]
        lines += [f"| {name} | {value:.2f} |" for name, value in (self.ratios | self.facts).items()]
        return "\n".join(lines) + "\n"

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
        axes.legend()
        figure.tight_layout()
        figure.savefig(folder / file_name, dpi=110)
        plt.close(figure)


def median_row(rows: list[Row]) -> Row:
    """Return the median of each figure over rounds of the same scenario; statuses add up."""
    statuses: dict[str, int] = {}
    for row in rows:
        for status, count in row.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    figures = ("pictures_per_s", "p50_ms", "p99_ms", "cpu_ms_per_picture", "rss_mib")
    medians = {name: statistics.median(getattr(row, name) for row in rows) for name in figures}
    return Row(scenario=rows[0].scenario, clients=rows[0].clients, statuses=statuses, **medians)
