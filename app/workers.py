"""The worker processes of one service: what each counted, in one answer.

With `WORKERS` above 1 a scrape of `/metrics` reaches whichever worker takes the connection. So each leaves what it has
counted in a folder they share, every few seconds, and any of them answers for all, its own figures being fresh. The
library's own mode for several processes knows no gauges that are asked at each scrape, which most of ours are.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import structlog
from filelock import FileLock, Timeout
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from typing_extensions import Self

_log = structlog.get_logger(__name__)

PUBLISH_EVERY_S = 5.0
"""How old the figures of the other workers may be."""


class NoFreeSlotError(RuntimeError):
    """More workers have come than there are slots."""


class Workers:
    """One worker's view of all workers. Belongs to one event loop; nothing is read or written before it is entered.

    A worker is known by its slot, 0 to `num_workers` - 1. It holds a lock on it that ends with the process, whatever
    ends it; the worker started in its place takes the same slot, so that series do not multiply.
    """

    def __init__(self, folder: Path, num_workers: int, registry: CollectorRegistry) -> None:
        """Take part in a service.

        Args:
            folder: Shared by the workers of one service and nobody else; made where it is missing.
            num_workers: How many there are at most, >= 1.
            registry: This worker's metrics.
        """
        self._folder = folder
        self._num_workers = num_workers
        self._registry = registry
        self._lock: FileLock | None = None
        self._slot = 0
        self._publishing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Take a slot and begin to publish.

        Raises:
            NoFreeSlotError: All slots are taken.
            OSError: The folder cannot be written.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._folder.stat().st_uid != os.getuid() or self._folder.is_symlink():
            raise PermissionError(errno.EACCES, "not ours", str(self._folder))
        self._slot, self._lock = self._take_slot()
        self._publish()
        self._publishing = asyncio.create_task(self._keep_publishing(), name="publish metrics")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take this worker's figures away, and the folder with those of the last one."""
        if self._publishing is not None:
            self._publishing.cancel()
            await asyncio.gather(self._publishing, return_exceptions=True)
        self._file(self._slot).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()
        with contextlib.suppress(OSError), contextlib.ExitStack() as locks:  # another worker is still there
            for path in self._folder.glob("*.lock"):
                locks.enter_context(FileLock(path, timeout=0))
            for path in self._folder.iterdir():
                path.unlink()
            self._folder.rmdir()

    def exposition(self) -> bytes:
        """Return the metrics of all workers in Prometheus's text format, each sample labelled with its `worker`."""
        merged: dict[str, Metric] = {}
        for slot, text in self._texts():
            for family in text_string_to_metric_families(text):
                kept = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    labels = {**sample.labels, "worker": str(slot)}
                    kept.add_sample(sample.name, labels, sample.value, sample.timestamp, sample.exemplar)
        registry = CollectorRegistry()
        registry.register(_Families(list(merged.values())))
        return generate_latest(registry)

    def _texts(self) -> Iterator[tuple[int, str]]:
        for slot in range(self._num_workers):
            if slot == self._slot:
                yield slot, generate_latest(self._registry).decode()
                continue
            with contextlib.suppress(OSError):  # there is none, or it has just gone
                yield slot, self._file(slot).read_text(encoding="utf-8")

    def _take_slot(self) -> tuple[int, FileLock]:
        for slot in range(self._num_workers):
            lock = FileLock(self._folder / f"{slot}.lock")
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
                return slot, lock
        raise NoFreeSlotError(f"{self._num_workers} workers are there already")

    async def _keep_publishing(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_EVERY_S)
            try:
                self._publish()
            except OSError as cause:
                _log.warning("metrics of this worker are not published", reason=cause.strerror)

    def _publish(self) -> None:
        draft = self._folder / f"{self._slot}.part"
        draft.write_bytes(generate_latest(self._registry))
        draft.replace(self._file(self._slot))

    def _file(self, slot: int) -> Path:
        return self._folder / f"{slot}.prom"


class _Families(Collector):
    """Metrics as they were read."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def folder_of_siblings(port: int) -> Path:
    """Return a folder that the workers of this service share: they are children of one process, on one port."""
    return Path(tempfile.gettempdir()) / f"jetface-{os.getuid()}-{os.getppid()}-{port}"


def share_of(total: int, num_workers: int) -> int:
    """Return what one worker gets of a limit of the service, rounded up; at least 1."""
    return max(1, -(-total // num_workers))
