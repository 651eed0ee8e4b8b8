"""One Markdown table and one line of JSON, of whatever was measured."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from typing import Literal

import click


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure, and what it has to be."""

    what: str
    value: float
    unit: str = ""
    limit: float | None = None
    """Least or most it may be; None: it is only told."""
    limit_is: Literal["least", "most"] = "most"

    @property
    def is_met(self) -> bool:
        """Whether the figure is within its limit."""
        if self.limit is None:
            return True
        return self.value <= self.limit if self.limit_is == "most" else self.value >= self.limit


@dataclass(slots=True)
class Report:
    """What a program measured, on what."""

    title: str
    device: str
    rows: list[Row] = field(default_factory=list)

    @property
    def is_met(self) -> bool:
        """Whether every figure is within its limit."""
        return all(row.is_met for row in self.rows)

    def add(
        self, what: str, value: float, unit: str = "", *, most: float | None = None, least: float | None = None
    ) -> None:
        """Add a figure, with at most one limit."""
        limit, limit_is = (most, "most") if least is None else (least, "least")
        self.rows.append(Row(what=what, value=value, unit=unit, limit=limit, limit_is=limit_is))  # type: ignore[arg-type]  # one of the two words

    def show(self) -> None:
        """Print the table, then the JSON."""
        click.echo(f"## {self.title}\n\n{self.device}, Python {platform.python_version()}\n")
        click.echo("| what | value | wanted | |\n|---|---|---|---|")
        for row in self.rows:
            wanted = "" if row.limit is None else f"{'<=' if row.limit_is == 'most' else '>='} {row.limit:g}"
            met = "" if row.limit is None else ("yes" if row.is_met else "**no**")
            click.echo(f"| {row.what} | {row.value:.4g} {row.unit} | {wanted} | {met} |")
        facts = {"title": self.title, "device": self.device, "rows": [asdict(row) for row in self.rows]}
        click.echo(f"\n{json.dumps(facts)}")
