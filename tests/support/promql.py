"""What a PromQL expression asks for, held against what a service really exposes; and what it is worth over time."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import promql_parser as promql
from prometheus_client.parser import text_string_to_metric_families

SCRAPE_LABELS = frozenset({"job", "instance", "pod"})
"""Labels that Prometheus adds to whatever it scrapes; `pod` on Kubernetes."""

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


Sample = tuple[str, Mapping[str, str], float]
"""Name, labels, value."""

_STALE_S = 300.0
"""How old a sample may be and still be a series' value."""


class History:
    """Samples of scrapes, as Prometheus keeps them, and the values of expressions over them.

    Known are `sum`, `rate` over a range, `vector`, numbers, `or`, `+ - * /` and comparisons with `bool`: what the
    scalers of the manifests ask for. Both sides of an operator are sums, which have no labels.
    """

    def __init__(self) -> None:
        self._samples: dict[tuple[str, frozenset[tuple[str, str]]], list[tuple[float, float]]] = {}

    def add(self, at_s: float, target: Mapping[str, str], samples: Iterable[Sample]) -> None:
        """Keep the samples of a scrape, with the labels of its target beside their own; those 10 minutes old go."""
        for name, labels, value in samples:
            kept = self._samples.setdefault((name, frozenset({**labels, **target}.items())), [])
            kept.append((at_s, value))
            while kept[0][0] < at_s - 600:
                kept.pop(0)

    def scrape(self, at_s: float, target: Mapping[str, str], text: str) -> None:
        """Keep what a service answered at `/metrics`."""
        families = text_string_to_metric_families(text)
        self.add(at_s, target, ((each.name, each.labels, each.value) for family in families for each in family.samples))

    def value(self, expression: str, at_s: float) -> float | None:
        """Return the one value of an expression without labels at a time; None where there is no series.

        Raises:
            ValueError: It has parts that are not known here.
        """
        values = self._evaluate(promql.parse(expression), at_s)
        return values[0] if values else None

    def _evaluate(self, node: promql.Expr, at_s: float) -> list[float]:
        found: list[float | None]
        match node:
            case promql.ParenExpr():
                found = [*self._evaluate(node.expr, at_s)]
            case promql.NumberLiteral():
                found = [node.val]
            case promql.Call() if node.func.name == "vector":
                found = [*self._evaluate(node.args[0], at_s)]
            case promql.Call() if node.func.name == "rate":
                matrix = node.args[0]
                window_s = matrix.range.total_seconds()
                found = [_rate(kept, at_s, window_s) for kept in self._select(matrix.vector_selector)]
            case promql.VectorSelector():
                found = [_last(kept, at_s) for kept in self._select(node)]
            case promql.AggregateExpr() if str(node.op) == "sum":
                values = self._evaluate(node.expr, at_s)
                found = [sum(values)] if values else []
            case promql.BinaryExpr() if str(node.op) == "or":
                found = [*(self._evaluate(node.lhs, at_s) or self._evaluate(node.rhs, at_s))]
            case promql.BinaryExpr():
                sides = zip(self._evaluate(node.lhs, at_s), self._evaluate(node.rhs, at_s), strict=False)
                found = [_OPERATORS[str(node.op)](left, right) for left, right in sides]
            case _:
                raise ValueError(f"not known here: {node.prettify()}")
        return [value for value in found if value is not None]

    def _select(self, selector: promql.VectorSelector) -> list[list[tuple[float, float]]]:
        if any(each.op != promql.MatchOp.Equal for each in selector.matchers.matchers):
            raise ValueError(f"not known here: {selector.prettify()}")
        wanted = {(each.name, each.value) for each in selector.matchers.matchers}
        return [kept for (name, labels), kept in self._samples.items() if name == selector.name and wanted <= labels]


_OPERATORS: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    ">": lambda a, b: float(a > b),
    "<": lambda a, b: float(a < b),
}


def _last(samples: Sequence[tuple[float, float]], at_s: float) -> float | None:
    return next((value for sampled_s, value in reversed(samples) if sampled_s <= at_s < sampled_s + _STALE_S), None)


def _rate(samples: Sequence[tuple[float, float]], at_s: float, window_s: float) -> float | None:
    """Return a counter's rate as Prometheus extrapolates it (`extrapolatedRate` of its promql/functions.go)."""
    inside = [(t, v) for t, v in samples if at_s - window_s < t <= at_s]
    if len(inside) < 2:
        return None
    increase = sum(b - a if b >= a else b for (_, a), (_, b) in itertools.pairwise(inside))
    (first_s, first), (last_s, _) = inside[0], inside[-1]
    sampled_s = last_s - first_s
    mean_s = sampled_s / (len(inside) - 1)
    before_s, after_s = first_s - (at_s - window_s), at_s - last_s
    if before_s >= mean_s * 1.1:
        before_s = mean_s / 2
    if increase > 0:
        # A counter began at zero, and not before.
        before_s = min(before_s, sampled_s * first / increase)
    if after_s >= mean_s * 1.1:
        after_s = mean_s / 2
    return increase * (sampled_s + before_s + after_s) / sampled_s / window_s
