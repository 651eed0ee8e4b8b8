"""A histogram for what happens many times a picture: prometheus-client's takes a lock for each number it counts."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector


class Series:
    """The observations under one set of labels."""

    __slots__ = ("_bounds", "_counts", "_created", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * len(bounds)
        self._sum = 0.0
        self._created = time.time()

    def observe(self, value: float) -> None:
        """Count `value` to the first bucket that holds it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, metric: Metric, labels: dict[str, str]) -> None:
        """Write down the samples, each bucket with those below it."""
        total = 0
        for bound, count in zip(self._bounds, list(self._counts), strict=True):
            total += count
            metric.add_sample(
                f"{metric.name}_bucket", {"le": "+Inf" if math.isinf(bound) else str(bound)} | labels, total
            )
        metric.add_sample(f"{metric.name}_count", labels, total)
        metric.add_sample(f"{metric.name}_sum", labels, self._sum)
        metric.add_sample(f"{metric.name}_created", labels, self._created)


class LoopHistogram(Collector):
    """A histogram that one thread observes, the event loop's, and any thread may scrape.

    It is shown as prometheus-client shows its own; what is missing is what takes a lock there, and exemplars.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        label_names: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        """Create it, and register it.

        Args:
            name: As Prometheus is to know it.
            documentation: One sentence.
            label_names: Of its series. Without labels there is one series from the start.
            buckets: Upper bounds, from 0 and ascending; infinity follows.
            registry: Where it is collected.
        """
        self.name = name
        self.documentation = documentation
        self.label_names = tuple(label_names)
        self._bounds = (*map(float, buckets), math.inf)
        self._series: dict[tuple[str, ...], Series] = {}
        if not self.label_names:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """Return the series of these label values, in the order of the names; the same one each time."""
        series = self._series.get(values)
        if series is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, not {values}")
            series = self._series[values] = Series(self._bounds)
        return series

    def observe(self, value: float) -> None:
        """Count `value` where there are no labels."""
        self.labels().observe(value)

    def describe(self) -> list[Metric]:
        """Name the metric."""
        return [Metric(self.name, self.documentation, "histogram")]

    def collect(self) -> Iterator[Metric]:
        """Write down what was observed."""
        (metric,) = self.describe()
        for values, series in list(self._series.items()):
            series.add_to(metric, dict(zip(self.label_names, values, strict=True)))
        yield metric
