"""What a batcher tells of its work, and the adapter that turns it into metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias, get_args

from jetface.metrics import Metrics

DropReason: TypeAlias = Literal["cancelled", "deadline", "failed", "shutdown"]
"""Why an item left the queue without a run: its caller went away; came too late; had its error already, from another
item of the same submission; the service stops."""


class Observer(Protocol):
    """Listens to one batcher. Called on the event loop's thread; must neither block nor raise."""

    def waited(self, seconds: Sequence[float]) -> None:
        """Items left the queue for a run, each after its seconds."""
        ...

    def ran(self, num_items: int, seconds: float) -> None:
        """A run of `num_items` ended well; `seconds` are the lane's own."""
        ...

    def failed(self) -> None:
        """A run failed."""
        ...

    def dropped(self, reason: DropReason, num_items: int) -> None:
        """`num_items` items left the queue without costing a run."""
        ...


class MetricsObserver:
    """Counts one model's batcher into the service's metrics."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        # Children are looked up once: `labels` costs as much as the observation itself.
        self._queue_seconds = metrics.queue_seconds.labels(model)
        self._batch_size = metrics.batch_size.labels(model)
        self._run_seconds = metrics.run_seconds.labels(model)
        self._run_failures = metrics.run_failures.labels(model)
        self._dropped = {reason: metrics.dropped.labels(model, reason) for reason in get_args(DropReason)}

    def waited(self, seconds: Sequence[float]) -> None:
        """See `Observer.waited`."""
        for each in seconds:
            self._queue_seconds.observe(each)

    def ran(self, num_items: int, seconds: float) -> None:
        """See `Observer.ran`."""
        self._batch_size.observe(num_items)
        self._run_seconds.observe(seconds)

    def failed(self) -> None:
        """See `Observer.failed`."""
        self._run_failures.inc()

    def dropped(self, reason: DropReason, num_items: int) -> None:
        """See `Observer.dropped`."""
        self._dropped[reason].inc(num_items)


class SilentObserver:
    """Listens to nothing: for batchers outside the service."""

    def waited(self, seconds: Sequence[float]) -> None:
        """See `Observer.waited`."""

    def ran(self, num_items: int, seconds: float) -> None:
        """See `Observer.ran`."""

    def failed(self) -> None:
        """See `Observer.failed`."""

    def dropped(self, reason: DropReason, num_items: int) -> None:
        """See `Observer.dropped`."""
