"""Items in pinned memory: drawn where the GPU reads them, so that nothing on the way copies them."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import weakref
from typing import Any, Protocol, runtime_checkable

import numpy as np
import structlog
from numpy.typing import NDArray

from jetface.backends.cuda.buffers import HostBuffer
from jetface.backends.cuda.runtime import CudaError, CudaRuntime

_log = structlog.get_logger(__name__)

_ALIGNMENT = 256
"""Bytes. Sides of a canvas are multiples of 32, so the largest ones fill their blocks: neighbours are one piece."""

_LEAST_SHARE = 2
"""An item smaller than half of the largest gets no block: it would save little, and keep a large one out."""


@runtime_checkable
class PinsItems(Protocol):
    """A backend to which items may be handed in pinned memory."""

    def pin_items(self, item_bytes: int, num_items: int) -> PinnedPool | None:
        """Return a pool for the backend's items, to be closed by the caller.

        Args:
            item_bytes: Of the largest item, at least 1.
            num_items: Most items at a time, at least 1.

        Returns:
            None where there is nothing to gain, as the GPU shares the CPU's memory, or where no memory is to be had.
        """
        ...


class PinnedBlock:
    """Owns a part of a pool for as long as there is an array of it; NumPy makes one by `__array_interface__`."""

    def __init__(self, pool: PinnedPool, address: int, shape: tuple[int, ...]) -> None:
        self.pool = pool
        self.address = address
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": shape, "typestr": "|u1"}


class PinnedPool:
    """Pinned memory for a number of items. Thread-safe, and without a lock.

    A block comes back when the last array of it is gone, on whichever thread that happens, also in the middle of a
    garbage collection: a lock might be held by that very thread. So all that is shared are a heap of numbers and a
    counter, whose operations are atomic. The memory outlives `close` until the last block is back.
    """

    def __init__(self, cuda: CudaRuntime, item_bytes: int, num_items: int) -> None:
        """Allocate all of it now: while a model serves, an allocation would hold the device up.

        Args:
            cuda: The runtime.
            item_bytes: Of the largest item, at least 1.
            num_items: Most items at a time, at least 1.

        Raises:
            CudaError: There is no room.
        """
        block_bytes = -(-item_bytes // _ALIGNMENT) * _ALIGNMENT
        self._item_bytes = item_bytes
        self._num_items = num_items
        self.num_bytes = block_bytes * num_items
        """Pinned by it."""
        self._memory = HostBuffer(cuda, self.num_bytes, is_mapped=False)
        start = self._memory.address
        self._free = list(range(start, start + self.num_bytes, block_bytes))
        self._is_closed = False
        self._gone = itertools.count(1)

    @property
    def num_free(self) -> int:
        """Items for which there is room now."""
        return len(self._free)

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
        """Return an uint8 array in pinned memory, not cleared; None where all is in use or it is not for such an item.

        The array owns its memory: it may be kept for as long as need be, also after `close`.
        """
        num_bytes = math.prod(shape)
        if num_bytes > self._item_bytes or num_bytes * _LEAST_SHARE < self._item_bytes:
            return None
        try:
            # The lowest: items drawn one after the other are neighbours then, and few blocks are in use, and in caches.
            address = heapq.heappop(self._free)
        except IndexError:
            return None
        block = PinnedBlock(self, address, shape)
        weakref.finalize(block, self._give_back, address).atexit = False
        if self._is_closed:
            return None
        return np.asarray(block)

    def close(self) -> None:
        """Hand out no more, and give the memory back as soon as no array uses it; a second call does nothing."""
        self._is_closed = True
        self._retire()

    def _give_back(self, address: int) -> None:
        heapq.heappush(self._free, address)
        if self._is_closed:
            self._retire()

    def _retire(self) -> None:
        """Take blocks away for good; whoever takes the last one frees the memory."""
        with contextlib.suppress(IndexError):
            while True:
                heapq.heappop(self._free)
                if next(self._gone) == self._num_items:
                    # In a finalizer nobody could act on an error; where the process ends there is no device any more.
                    with contextlib.suppress(CudaError):
                        self._memory.close()


def block_of(row: NDArray[Any]) -> PinnedBlock | None:
    """Return what a row from a `PinnedPool` lies in; None for all others, views of such rows included.

    The array itself tells, by what owns its memory: exact, without a list of addresses to search, and true for any pool
    of the process, also one of a backend that has been replaced.
    """
    base: object = row.base
    return base if type(base) is PinnedBlock else None


def pin_items(cuda: CudaRuntime, item_bytes: int, num_items: int) -> PinnedPool | None:
    """Return a pool, as `PinsItems.pin_items` does; says so where no memory is to be had."""
    try:
        return None if cuda.properties().is_integrated else PinnedPool(cuda, item_bytes, num_items)
    except CudaError as error:
        _log.warning("no memory is pinned for items: they are copied once more", reason=str(error))
        return None
