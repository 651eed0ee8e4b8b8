"""One Markdown table and one line of JSON, of whatever was measured."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from typing import Literal

import click


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure, and what it has to be; or words in place of one."""

    what: str
    value: float | None
    unit: str = ""
    limit: float | None = None
    """Least or most it may be; None: it is only told."""
    limit_is: Literal["least", "most"] = "most"
    words: str = ""

    @property
    def text(self) -> str:
        """The figure and its unit, or the words."""
        return self.words if self.value is None else f"{self.value:.4g} {self.unit}"

    @property
    def is_met(self) -> bool:
        """Whether the figure is within its limit."""
        if self.limit is None or self.value is None:
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
        self._take(Row(what=what, value=value, unit=unit, limit=limit, limit_is=limit_is))  # type: ignore[arg-type]  # one of the two words

    def tell(self, what: str, words: str) -> None:
        """Add what there is no figure of."""
        # A bar would end the cell.
        self._take(Row(what=what, value=None, words=words.replace("|", "/")))

    def show(self) -> None:
        """Print the table, then the JSON."""
        click.echo(f"## {self.title}\n\n{self.device}, Python {platform.python_version()}\n")
        click.echo("| what | value | wanted | |\n|---|---|---|---|")
        for row in self.rows:
            wanted = "" if row.limit is None else f"{'<=' if row.limit_is == 'most' else '>='} {row.limit:g}"
            met = "" if row.limit is None else ("yes" if row.is_met else "**no**")
            click.echo(f"| {row.what} | {row.text} | {wanted} | {met} |")
        facts = {"title": self.title, "device": self.device, "rows": [asdict(row) for row in self.rows]}
        click.echo(f"\n{json.dumps(facts)}")

    def _take(self, row: Row) -> None:
        self.rows.append(row)
        # At once: a run that is cut off has told what it had.
        click.echo(f"{row.what}: {row.text}", err=True)
