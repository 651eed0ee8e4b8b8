"""One build at a time in a folder of plans, whichever process it is in.

The lock is the operating system's, on an open file: it is free the moment its holder ends, however that ends. So the
rule for stale locks is that there are none: a `.build.lock` that lies in the folder means nothing by itself and may be
removed by nobody. Where a file system knows no locks, or the folder cannot be written, builds go on without: two
processes then do the work twice, and the plan that is written last stays, whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import structlog

_log = structlog.get_logger(__name__)

LOCK_NAME = ".build.lock"

_POLL_S = 0.2


@contextmanager
def build_lock(folder: Path | None, *, on_wait: Callable[[], object]) -> Iterator[None]:
    """Hold the lock of a folder of plans for the block.

    Args:
        folder: Made where it is missing; None needs no lock, as there is nothing to share.
        on_wait: Called once when another process holds the lock; this one then waits as long as that takes.
    """
    lock = None if folder is None else _acquire(folder, on_wait)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _acquire(folder: Path, on_wait: Callable[[], object]) -> filelock.BaseFileLock | None:
    lock = filelock.FileLock(folder / LOCK_NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            on_wait()
            lock.acquire(poll_interval=_POLL_S)
    except (OSError, NotImplementedError) as cause:
        _log.warning("engines are built without a lock", folder=str(folder), reason=str(cause))
        return None
    return lock
