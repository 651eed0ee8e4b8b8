"""The input of a graph at one shape: rows are gathered from where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jetface.backends.cuda.buffers import PairedBuffer, bytes_of
from jetface.backends.cuda.pinned import PinnedPool, block_of
from jetface.backends.cuda.runtime import CudaRuntime
from jetface.backends.cuda.streams import Stream

_CHUNK_BYTES = 512 * 1024
"""So much is written between two copies to the device: these go on while the next rows are written, and what is left to
wait for at the end is short. Smaller chunks cost more calls than they save: a call takes some microseconds."""

_SMALL_BYTES = 64 * 1024
"""A row up to this size, such as a crop, is copied in 2 us at most: not long enough to let other threads have the
interpreter lock, which then take it for longer. Copies of 32 crops beside a busy thread: 0.07 ms instead of 0.27."""


class InputBuffer:
    """An input at a fixed address, and pinned memory beside it for rows that do not lie in such memory. One thread."""

    def __init__(self, cuda: CudaRuntime, shape: Sequence[int], dtype: DTypeLike, *, is_integrated: bool) -> None:
        """Allocate.

        Args:
            cuda: The runtime.
            shape: (N, ...), all axes fixed.
            dtype: Of its elements.
            is_integrated: Whether the GPU shares the CPU's memory.
        """
        self.shape = tuple(shape)
        self._copy, self._copy_pieces = cuda.copy_to_device, cuda.copy_pieces_to_device
        self._row_bytes = bytes_of(self.shape[1:], dtype)
        self._memory = PairedBuffer(cuda, max(1, bytes_of(shape, dtype)), is_integrated=is_integrated)
        self._is_copied = self._memory.is_copied
        self.address = self._memory.address
        """Where it begins, as kernels see it."""
        self._host_address = self._memory.host.address
        self.array = self._memory.host.view(self.shape, dtype)
        """The CPU's side, where rows are copied to; not to be touched once this is closed."""
        self._rows = list(self.array)
        self._dtype = self.array.dtype
        self._bytes = self._memory.host.view((self._memory.host.num_bytes,), np.uint8).data
        self._is_small = self._row_bytes <= _SMALL_BYTES
        self._chunk_rows = max(1, _CHUNK_BYTES // max(1, self._row_bytes))

    def upload(self, batch: NDArray[Any] | Sequence[NDArray[Any]], stream: Stream) -> None:
        """Queue the way of rows to the device, as the first ones there; the others keep what they had.

        Rows in pinned memory are taken from where they lie, and have to stay as they are until the stream was waited
        for. Others are copied first. On a GPU that shares the CPU's memory all are copied, which is all.

        Args:
            batch: (n, ...), or n rows; n at most that of the shape, all else alike.
            stream: Whose later work sees them.
        """
        if not self._is_copied:
            for index, row in enumerate(batch):
                self._write(index, row)
        elif isinstance(batch, np.ndarray):
            self._upload_array(batch, stream.handle)
        else:
            self._upload_rows(batch, stream.handle)

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        self._memory.close()

    def _upload_array(self, batch: NDArray[Any], stream: int) -> None:
        for start in range(0, len(batch), self._chunk_rows):
            stop = min(start + self._chunk_rows, len(batch))
            np.copyto(self.array[start:stop], batch[start:stop], casting="no")
            offset = start * self._row_bytes
            self._copy(self.address + offset, self._host_address + offset, (stop - start) * self._row_bytes, stream)

    def _upload_rows(self, batch: Sequence[NDArray[Any]], stream: int) -> None:
        """Send neighbours as one piece, and pieces together: each call lets go of the lock and waits to get it back.

        Rows that are copied first go as soon as a chunk of them is there.
        """
        row_bytes, num_copied = self._row_bytes, 0
        pieces: list[tuple[int, int, int]] = []
        last: tuple[PinnedPool | None, int] | None = None
        for index, row in enumerate(batch):
            block = block_of(row)
            if block is None:
                self._write(index, row)
                num_copied += 1
            source = self._host_address + index * row_bytes if block is None else block.address
            pool = None if block is None else block.pool
            if last == (pool, source):
                to, start, num_bytes = pieces[-1]
                pieces[-1] = to, start, num_bytes + row_bytes
            else:
                pieces.append((self.address + index * row_bytes, source, row_bytes))
            last = pool, source + row_bytes
            if num_copied == self._chunk_rows:
                self._send_pieces(pieces, stream)
                pieces, last, num_copied = [], None, 0
        self._send_pieces(pieces, stream)

    def _send_pieces(self, pieces: Sequence[tuple[int, int, int]], stream: int) -> None:
        if len(pieces) == 1:
            self._copy(*pieces[0], stream)
        elif pieces:
            self._copy_pieces(pieces, stream)

    def _write(self, index: int, row: NDArray[Any]) -> None:
        own = self._rows[index]
        if self._is_small and row.dtype == self._dtype and row.shape == own.shape and row.flags.c_contiguous:
            start = index * self._row_bytes
            self._bytes[start : start + self._row_bytes] = row.data.cast("B")
        else:
            np.copyto(own, row, casting="no")
