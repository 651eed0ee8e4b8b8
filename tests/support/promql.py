"""What a PromQL expression asks for, held against what a service really exposes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import promql_parser as promql
from prometheus_client.parser import text_string_to_metric_families

SCRAPE_LABELS = frozenset({"job", "instance"})
"""Labels that Prometheus adds to whatever it scrapes."""

OPEN_LABELS = frozenset({"status", "route", "method"})
"""Labels whose values depend on what was asked of the service: a matcher need not find any."""

_DASHBOARD_VARIABLES = {"$__rate_interval": "1m", "$job": ".+", "$instance": ".+", "$route": ".+"}

Series = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Exposition:
    """The series of one scrape, by sample name."""

    series_by_name: Mapping[str, Series]

    @classmethod
    def parse(cls, text: str) -> Exposition:
        """Read Prometheus's text format; `up`, which Prometheus makes itself, is added."""
        series: dict[str, list[Mapping[str, str]]] = {"up": [{}]}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series.setdefault(sample.name, []).append(sample.labels)
        return cls(series)

    def labels(self, name: str) -> frozenset[str]:
        """Return every label that a series of this name has once it is scraped."""
        found = self.series_by_name.get(name, ())
        return SCRAPE_LABELS.union(*(labels.keys() for labels in found))

    def faults(self, expression: str) -> list[str]:
        """Say what in `expression` does not exist, one line each; variables of the dashboard are filled in.

        Raises:
            ValueError: Not PromQL.
        """
        for variable, value in _DASHBOARD_VARIABLES.items():
            expression = expression.replace(variable, value)
        found: list[str] = []

        def visit(node: promql.Expr) -> None:
            if isinstance(node, promql.AggregateExpr) and node.modifier:
                found.extend(self._unknown(node.modifier.labels, node.expr))
            elif isinstance(node, promql.BinaryExpr) and node.modifier and node.modifier.matching:
                found.extend(self._unknown(node.modifier.matching.labels, node.lhs))
                found.extend(self._unknown(node.modifier.matching.labels, node.rhs))

        parsed = promql.parse(expression)
        promql.walk(parsed, visit)
        for selector in selectors(parsed):
            found.extend(self._missing(selector))
        return found

    def _unknown(self, labels: Sequence[str], expression: promql.Expr) -> list[str]:
        known = frozenset[str]().union(*(self.labels(selector.name or "") for selector in selectors(expression)))
        return [f"no label {label} in {expression.prettify()}" for label in labels if label not in known]

    def _missing(self, selector: promql.VectorSelector) -> list[str]:
        name = selector.name or ""
        if name not in self.series_by_name:
            return [f"no metric {name}"]
        found = []
        for matcher in selector.matchers.matchers:
            if matcher.name in SCRAPE_LABELS:
                continue
            if matcher.name not in self.labels(name):
                found.append(f"no label {matcher.name} of {name}")
            elif matcher.name not in OPEN_LABELS and not self._has_each_value(name, matcher):
                found.append(f"no series {name}{{{matcher}}}")
        return found

    def _has_each_value(self, name: str, matcher: promql.Matcher) -> bool:
        """Tell whether each of the values that a matcher names with `=`, or lists with `=~`, occurs."""
        values = {labels.get(matcher.name) for labels in self.series_by_name[name]}
        if matcher.op == promql.MatchOp.Equal:
            return matcher.value in values
        if matcher.op == promql.MatchOp.Re and re.fullmatch(r"[\w|]+", matcher.value):
            return set(matcher.value.split("|")) <= values
        return True


def selectors(expression: promql.Expr) -> list[promql.VectorSelector]:
    """Return every selector of instant or range vectors inside an expression."""
    found: list[promql.VectorSelector] = []

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.VectorSelector):
            found.append(node)
        elif isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)

    promql.walk(expression, visit)
    return list({selector.prettify(): selector for selector in found}.values())
