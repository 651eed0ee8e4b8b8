"""Who runs a model: one lane is one thread and the backend it uses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

from jetface.batching.lane import Lane
from jetface.domain import Batch, Tensor
from jetface.runtimes.backend import Backend

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Head(Protocol[Item_contra, Result_co]):
    """What a family makes of a graph: items in, results out, by way of any backend that runs the graph."""

    def run(self, backend: Backend, items: Sequence[Item_contra]) -> Sequence[Result_co]:
        """Run the items together; one result each, in order."""
        ...


class RunCounter:
    """Counts the runs in progress on the CPU, over all models of the service. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0

    @contextmanager
    def running(self) -> Iterator[bool]:
        """Count one run; yields whether it is the only one at its start."""
        with self._lock:
            self._running += 1
            is_alone = self._running == 1
        try:
            yield is_alone
        finally:
            with self._lock:
                self._running -= 1


NARROW_BELOW = 3 * 112 * 112
"""Values in a batch too small to share: a 96x96 canvas takes 0.6 ms on one core and 1.0 ms on two."""


class WideBackend:
    """All cores for one batch at a time, or the lane's own core where the batch is too small to share."""

    def __init__(self, narrow: Backend, wide: Backend) -> None:
        self._narrow = narrow
        self._wide = wide
        self.max_batch_size = min(narrow.max_batch_size, wide.max_batch_size)
        """That of both."""

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run a batch on whichever suits it."""
        num_values = sum(item.size for item in batch)
        return (self._narrow if num_values < NARROW_BELOW else self._wide).run(batch)

    def close(self) -> None:
        """Close both."""
        self._narrow.close()
        self._wide.close()


def make_lanes(
    head: Head[Item, Result],
    backends: Sequence[Backend],
    *,
    warm: Callable[[Backend], None] | None = None,
) -> list[Lane[Item, Result]]:
    """Return a lane for each backend.

    Args:
        head: What runs on them.
        backends: One a lane, one thread each.
        warm: Called with the backend on the lane's thread before its first run; None calls nothing.
    """
    return [
        Lane(
            run=partial(head.run, backend),
            close=backend.close,
            start=partial(warm, backend) if warm else None,
        )
        for backend in backends
    ]


def make_cpu_lanes(
    head: Head[Item, Result], backends: Sequence[Backend], wide: Backend, counter: RunCounter
) -> list[Lane[Item, Result]]:
    """Return a lane of one core for each backend; a run that is alone in the service borrows all cores.

    One thread per core gives the most pictures per second, but leaves cores idle while a lone request waits for its
    run. So a run that finds no other in progress, of any model, takes the wide backend; one that finds company keeps
    to its own core. Figures: docs/adr/0007-lone-requests.md.

    Args:
        head: What runs on them.
        backends: One a core, one thread each.
        wide: The same graph over all cores. The lanes take turns with it, one run at a time.
        counter: Shared by all models.
    """
    turn = threading.Lock()

    def lane_of(narrow: Backend) -> Lane[Item, Result]:
        borrowing = WideBackend(narrow, wide)

        def run(items: Sequence[Item]) -> Sequence[Result]:
            with counter.running() as is_alone:
                # Another lane may still be on the wide backend: its run began alone and has company since.
                if is_alone and turn.acquire(blocking=False):
                    try:
                        return head.run(borrowing, items)
                    finally:
                        turn.release()
                return head.run(narrow, items)

        def close() -> None:
            with turn:
                borrowing.close()

        return Lane(run=run, close=close)

    return [lane_of(backend) for backend in backends]
