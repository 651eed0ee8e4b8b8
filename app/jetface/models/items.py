"""Memory that items of a model are drawn in: pinned where its backend gains by that, the process's own else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from jetface.runtimes.backend import Backend
from jetface.runtimes.gpu_buffers import GpuBackend, PinnedPool

_log = structlog.get_logger(__name__)

_MOST_ITEMS = 64
"""Where nobody says how many are made at a time: eight full batches of a detector."""

_MOST_BYTES = 256 * 2**20
"""Most memory that is pinned for a model: the system can use it for nothing else, whoever needs it."""


class ItemMemory:
    """Where items of one model are made. Thread-safe but for `pin` and `close`, which one thread at a time calls."""

    def __init__(self, most_items: int = _MOST_ITEMS) -> None:
        """Begin with the process's own memory.

        Args:
            most_items: Canvases of the largest size to have pinned memory for, at least 1: as many as are drawn, wait
                or run at a time. Beyond them items are copied once more.
        """
        self._most_items = most_items
        self._pool: PinnedPool | None = None

    @property
    def num_bytes(self) -> int:
        """Pinned memory that is held."""
        return 0 if self._pool is None else self._pool.num_bytes

    def pin(self, model: str, backend: Backend, item_shapes: Sequence[tuple[int, ...]]) -> None:
        """Let items be made where `backend` reads them. Does nothing where they are already, or where it is no use.

        A pool stays when an engine takes over from what it was made for: pinned memory is so for the whole process.

        Args:
            model: Its name, for the log.
            backend: What runs the items.
            item_shapes: Of items that will come, (H, W, 3).
        """
        item_bytes = max(map(math.prod, item_shapes), default=0)
        if self._pool is not None or not item_bytes or not isinstance(backend, GpuBackend):
            return
        num_items = max(1, min(self._most_items, _MOST_BYTES // item_bytes))
        self._pool = backend.pin_items(item_bytes, num_items)
        if self._pool is not None:
            _log.info(
                "canvases are drawn in pinned memory", model=model, canvases=num_items, pinned_bytes=self.num_bytes
            )

    def new_item(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return an uint8 array that is not cleared; it owns its memory, pinned as long as there is some left."""
        pool = self._pool
        item = None if pool is None else pool.take(shape)
        return np.empty(shape, np.uint8) if item is None else item

    def close(self) -> None:
        """Give pinned memory back, once nobody uses it any more; a second call does nothing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
