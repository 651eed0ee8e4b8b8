"""A batcher's metrics, read back."""

from __future__ import annotations

from typing import get_args

from jetface.batching.queue import DropReason
from jetface.metrics import Metrics


class Recorder:
    """Metrics for one batcher, and what they say."""

    def __init__(self, model: str) -> None:
        self.metrics = Metrics()
        self._model = model

    @property
    def num_waited(self) -> int:
        """Items that left the queue for a run."""
        return self._value("jetface_queue_seconds_count")

    @property
    def num_runs(self) -> int:
        """Runs that passed."""
        assert self._value("jetface_run_seconds_count") == self._value("jetface_batch_size_count")
        return self._value("jetface_run_seconds_count")

    @property
    def num_ran(self) -> int:
        """Items of runs that passed."""
        return self._value("jetface_batch_size_sum")

    @property
    def num_failed(self) -> int:
        """Runs that failed."""
        return self._value("jetface_run_failures_total")

    @property
    def drops(self) -> dict[str, int]:
        """Items that left the queue without a run, by reason."""
        counts = {reason: self._value("jetface_dropped_items_total", reason=reason) for reason in get_args(DropReason)}
        return {reason: count for reason, count in counts.items() if count}

    def _value(self, name: str, **labels: str) -> int:
        value = self.metrics.registry.get_sample_value(name, {"model": self._model, **labels})
        assert value is not None
        return int(value)
