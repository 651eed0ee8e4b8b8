"""The outputs of a graph at one shape: side by side in one buffer, so that one copy can bring them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetface.backends.cuda.buffers import PairedBuffer, bytes_of
from jetface.backends.cuda.runtime import CudaRuntime
from jetface.backends.cuda.streams import Stream
from jetface.domain import Tensor

_ALIGNMENT = 256
"""Bytes; what cudaMalloc gives, kernels may count on, and TensorRT demands."""

_COPY_WORTH_BYTES = 128 * 1024
"""What one more copy is worth: the call and the start of it take as long as so many bytes do, 3 to 10 microseconds."""


@dataclass(frozen=True, slots=True)
class _Fetch:
    """What to do for a number of items; it is the same each time."""

    copies: tuple[tuple[int, int, int], ...]
    """Host address, device address and length of each."""
    views: tuple[NDArray[Any], ...]
    is_float32: bool


class OutputBuffers:
    """All outputs of one bucket at fixed addresses. One thread."""

    def __init__(
        self,
        cuda: CudaRuntime,
        outputs: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
        bucket: int,
        *,
        is_integrated: bool,
    ) -> None:
        """Allocate.

        Args:
            cuda: The runtime.
            outputs: Shapes and types, in the graph's order. Those whose first axis is as long as the bucket have a row
                an item.
            bucket: Items the input has room for.
            is_integrated: Whether the GPU shares the CPU's memory.
        """
        self._copy = cuda.copy_to_host
        self._bucket = bucket
        offsets = [0]
        for shape, dtype in outputs:
            offsets.append(offsets[-1] + -(-bytes_of(shape, dtype) // _ALIGNMENT) * _ALIGNMENT)
        self._memory = PairedBuffer(cuda, max(1, offsets[-1]), is_integrated=is_integrated)
        self._offsets = offsets[:-1]
        self.addresses = [self._memory.address + offset for offset in self._offsets]
        """Where each begins, as kernels see it."""
        self._arrays = [
            self._memory.host.view(shape, dtype, offset=offset)
            for (shape, dtype), offset in zip(outputs, self._offsets, strict=True)
        ]
        self._fetches: dict[int, _Fetch] = {}

    def fetch(self, num_items: int, stream: Stream) -> None:
        """Queue the way of what the graph says of the first items to the CPU's side."""
        handle = stream.handle
        for host_address, device_address, num_bytes in self._fetch_of(num_items).copies:
            self._copy(host_address, device_address, num_bytes, handle)

    def answers(self, num_items: int) -> tuple[Tensor, ...]:
        """Return the outputs as they are now: after `fetch`, and once its stream was waited for.

        Returns:
            Arrays in the graph's order, float32, a row an item. What is float32 on the device is a view, which the next
            fetch overwrites and which must not be touched once this is closed.
        """
        fetch = self._fetch_of(num_items)
        if fetch.is_float32:
            return fetch.views
        return tuple(np.asarray(view, np.float32) for view in fetch.views)

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        self._memory.close()

    def _fetch_of(self, num_items: int) -> _Fetch:
        fetch = self._fetches.get(num_items)
        if fetch is None:
            fetch = self._fetches[num_items] = self._plan(num_items)
        return fetch

    def _plan(self, num_items: int) -> _Fetch:
        """Decide how outputs are fetched: each one's used rows, or all that there is at once where that is cheaper.

        One copy instead of several saves the start of the others; it costs the rows that nobody asked for. A full
        bucket has none of these.
        """
        views = tuple(array[:num_items] if array.shape[:1] == (self._bucket,) else array for array in self._arrays)
        host, device, end = self._memory.host.address, self._memory.address, self._memory.host.num_bytes
        copies = tuple(
            (host + offset, device + offset, view.nbytes)
            for view, offset in zip(views, self._offsets, strict=True)
            if view.nbytes
        )
        surplus_bytes = end - sum(num_bytes for _, _, num_bytes in copies)
        if surplus_bytes <= (len(copies) - 1) * _COPY_WORTH_BYTES:
            copies = ((host, device, end),)
        if not self._memory.is_copied:
            copies = ()
        return _Fetch(copies, views, all(view.dtype == np.float32 for view in views))
