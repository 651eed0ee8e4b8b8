"""Who runs a model: one lane is one thread and the backend it owns."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from app.backends.protocol import Backend

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


class Lane(Generic[Item, Result]):
    """Runs batches on the backend it owns; one thread calls it, from the first run to `close`."""

    def __init__(self, head: Head[Item, Result], backend: Backend) -> None:
        self._head = head
        self._backend = backend

    def __call__(self, items: Sequence[Item]) -> Sequence[Result]:
        """Run one batch."""
        return self._head.run(self._backend, items)

    def close(self) -> None:
        """Free the backend."""
        self._backend.close()


class CpuLane(Generic[Item, Result]):
    """A lane of one core that borrows the others when nobody else wants them.

    One thread per core gives the most pictures per second, but leaves cores idle while a lone request waits for its
    run. So a run that finds no other in progress takes the wide backend (one session over all cores); one that finds
    company takes its own core. Figures: docs/adr/0007-lone-requests.md.
    """

    def __init__(
        self, head: Head[Item, Result], narrow: Backend, wide: Backend, counter: RunCounter, wide_lock: threading.Lock
    ) -> None:
        self._head = head
        self._narrow = narrow
        self._wide = wide
        self._counter = counter
        self._wide_lock = wide_lock

    def __call__(self, items: Sequence[Item]) -> Sequence[Result]:
        """Run one batch on one core, or on all of them when it is alone."""
        with self._counter.running() as is_alone:
            # The lock keeps the promise that a backend runs one batch at a time: a lone run may still be on the wide
            # backend when the counter has gone to one again for another lane.
            if is_alone and self._wide_lock.acquire(blocking=False):
                try:
                    return self._head.run(self._wide, items)
                finally:
                    self._wide_lock.release()
            return self._head.run(self._narrow, items)

    def close(self) -> None:
        """Free both backends; the wide one bears being closed by every lane."""
        self._narrow.close()
        self._wide.close()
