"""Memory for decoded pictures, used again: what is given back to the system is taken and cleared anew, page by page."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from jetface.domain import Image

_MOST_PIECES = 8
"""Pieces kept for the next pictures: those in use come and go one by one, so few are free at a time."""

_LEAST_BYTES = 2**20
"""Below, the allocator keeps memory itself."""

_MOST_BYTES = 2**24
"""Above, pictures are rare, and memory better given back; with `_MOST_PIECES` it bounds what is kept: 128 MiB."""

_MOST_TIMES = 2
"""A piece this many times as large as a picture is left to a larger one."""


class PictureMemory:
    """Makes arrays for pictures. Thread-safe, and without a lock: arrays may end on any thread, at any time."""

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=_MOST_PIECES)

    @property
    def num_free(self) -> int:
        """Pieces that wait for a picture."""
        return len(self._free)

    def take(self, shape: tuple[int, int, int]) -> Image:
        """Return an uint8 array, not cleared; its memory is its own until the last view of it has ended."""
        num_bytes = math.prod(shape)
        if not _LEAST_BYTES <= num_bytes <= _MOST_BYTES:
            return np.empty(shape, np.uint8)
        return np.asarray(_Piece(self._free, self._fitting(num_bytes), shape))

    def _fitting(self, num_bytes: int) -> NDArray[np.uint8]:
        for _ in range(len(self._free)):
            try:
                memory = self._free.pop()  # the latest: what is in caches, if anything is
            except IndexError:  # another thread was quicker
                break
            if num_bytes <= memory.size <= _MOST_TIMES * num_bytes:
                return memory
            self._free.appendleft(memory)
        return np.empty(num_bytes, np.uint8)


class _Piece:
    """Owns memory for as long as there is an array of it; NumPy makes one by `__array_interface__`."""

    __slots__ = ("__array_interface__", "_free", "_memory")

    def __init__(self, free: deque[NDArray[np.uint8]], memory: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
        self._free = free
        self._memory = memory
        self.__array_interface__ = {
            "version": 3,
            "data": (memory.ctypes.data, False),
            "shape": shape,
            "typestr": "|u1",
        }

    def __del__(self) -> None:
        """Leave the memory to another picture; the piece that is free for longest goes where there are too many."""
        self._free.append(self._memory)
