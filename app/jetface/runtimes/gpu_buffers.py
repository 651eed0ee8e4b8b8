"""Memory on either side of the bus, and what every backend of a GPU does with it: buckets, padding, halves.

Inputs and outputs of a graph at one shape lie at fixed addresses; items may be drawn in pinned memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import itertools
import math
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import structlog
from numpy.typing import DTypeLike, NDArray

from jetface.domain import Batch, Tensor
from jetface.errors import InferenceError
from jetface.runtimes.backend import bucket_of, buckets_up_to, layout_of, run_within_memory
from jetface.runtimes.cuda import Cuda, CudaError, Stream

_log = structlog.get_logger(__name__)

Shape: TypeAlias = tuple[int, ...]


def bytes_of(shape: Sequence[int], dtype: DTypeLike) -> int:
    """Return how many bytes an array takes."""
    return math.prod(shape) * np.dtype(dtype).itemsize


class _Buffer:
    """Memory that is given back once."""

    def __init__(self, address: int, num_bytes: int, free: Callable[[int], None]) -> None:
        self._address: int | None = address
        self._free = free
        self.num_bytes = num_bytes

    @property
    def address(self) -> int:
        """Where it begins, as the side sees it that it is memory of.

        Raises:
            ValueError: The buffer is closed.
        """
        if self._address is None:
            raise ValueError("the buffer is closed")
        return self._address

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        if self._address is not None:
            address, self._address = self._address, None
            self._free(address)


class DeviceBuffer(_Buffer):
    """Memory of the device."""

    def __init__(self, cuda: Cuda, num_bytes: int) -> None:
        super().__init__(cuda.malloc(num_bytes), num_bytes, cuda.free)


class HostBuffer(_Buffer):
    """Memory of the host that stays where it is: copies to the device need no help of the CPU, or no copy is needed."""

    def __init__(self, cuda: Cuda, num_bytes: int, *, is_mapped: bool) -> None:
        """Allocate.

        Args:
            cuda: The runtime.
            num_bytes: How much, at least 1.
            is_mapped: Whether kernels use it in place, by `device_address`.
        """
        super().__init__(cuda.host_alloc(num_bytes, is_mapped=is_mapped), num_bytes, cuda.host_free)
        self._cuda = cuda

    @property
    def device_address(self) -> int:
        """Where it begins, as kernels see it; for mapped memory only."""
        return self._cuda.device_address(self.address)

    def view(self, shape: Sequence[int], dtype: DTypeLike, *, offset: int = 0) -> NDArray[Any]:
        """Return a part of it as an array, no copy; the array must not be touched once the buffer is closed.

        Args:
            shape: Of the array.
            dtype: Of the array.
            offset: Byte at which it begins.

        Raises:
            ValueError: The buffer is closed, or ends before the array does.
        """
        num_bytes = bytes_of(shape, dtype)
        if offset + num_bytes > self.num_bytes:
            raise ValueError(f"{num_bytes} bytes at {offset} do not fit into {self.num_bytes}")
        window = memoryview((ctypes.c_uint8 * num_bytes).from_address(self.address + offset)).cast("B")
        view: NDArray[Any] = np.frombuffer(window, np.dtype(dtype)).reshape(tuple(shape))
        return view


class PairedBuffer:
    """Memory with a place on either side: the CPU's, and the one that kernels see.

    On a GPU with memory of its own these are two places with copies between them; on one that shares the CPU's memory
    they are one place, and there is nothing to copy.
    """

    def __init__(self, cuda: Cuda, num_bytes: int, *, is_integrated: bool) -> None:
        """Allocate.

        Args:
            cuda: The runtime.
            num_bytes: How much, at least 1.
            is_integrated: Whether the GPU shares the CPU's memory.
        """
        self.host = HostBuffer(cuda, num_bytes, is_mapped=is_integrated)
        self._device: DeviceBuffer | None = None
        self.is_copied = not is_integrated
        """Whether the two are places of their own."""
        try:
            self._device = None if is_integrated else DeviceBuffer(cuda, num_bytes)
            self.address = self._device.address if self._device else self.host.device_address
            """Where it begins, as kernels see it."""
        except BaseException:
            self.host.close()
            raise

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        self.host.close()
        if self._device is not None:
            self._device.close()


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
        cuda: Cuda,
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


_LEAST_SHARE = 2
"""An item smaller than half of the largest gets no block: it would save little, and keep a large one out."""


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

    def __init__(self, cuda: Cuda, item_bytes: int, num_items: int) -> None:
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


_CHUNK_BYTES = 512 * 1024
"""So much is written between two copies to the device: these go on while the next rows are written, and what is left to
wait for at the end is short. Smaller chunks cost more calls than they save: a call takes some microseconds."""

_SMALL_BYTES = 64 * 1024
"""A row up to this size, such as a crop, is copied in 2 us at most: not long enough to let other threads have the
interpreter lock, which then take it for longer. Copies of 32 crops beside a busy thread: 0.07 ms instead of 0.27."""


class InputBuffer:
    """An input at a fixed address, and pinned memory beside it for rows that do not lie in such memory. One thread."""

    def __init__(self, cuda: Cuda, shape: Sequence[int], dtype: DTypeLike, *, is_integrated: bool) -> None:
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


class Bucket(ABC):
    """A graph at one shape, with buffers of its own. One thread."""

    @abstractmethod
    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run a batch that fits, up to as many rows as the shape has; what fails raises anything.

        Returns:
            The outputs, float32, valid until the next run or `close`.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the buffers; a second call does nothing."""


class GpuBackend(ABC):
    """A `Backend` with a bucket for each shape. One thread owns it from the first run to `close`.

    A batch is padded to the next bucket on the device, and only its own rows are copied there; from where they are,
    where that is memory of `pin_items`. Where the device has no room for one more bucket, a larger one serves.
    """

    def __init__(self, cuda: Cuda, *, max_batch_size: int) -> None:
        """Begin without buckets.

        Args:
            cuda: The runtime.
            max_batch_size: Most items per run.
        """
        self._cuda = cuda
        self.max_batch_size = max_batch_size
        """Most items one run takes."""
        # Every bucket of five item shapes, and 16 at least: a detector sees up to four canvas sizes, and one more when
        # it is probed.
        self._most_buckets = max(16, 5 * len(buckets_up_to(max_batch_size)))
        self._buckets: OrderedDict[Shape, Bucket] = OrderedDict()
        """The last used last."""
        self._without_room: set[Shape] = set()
        """Shapes for which the device had no room, and of which there is a larger one."""
        self._is_closed = False

    @abstractmethod
    def _check(self, shape: Shape, dtype: np.dtype[Any]) -> None:
        """Raise InferenceError where the model takes no batch of this padded shape and type."""

    @abstractmethod
    def _make(self, shape: Shape) -> Bucket:
        """Make a bucket; what fails raises anything."""

    @abstractmethod
    def _free(self) -> None:
        """Give back what is left on the device once all buckets are closed; it is called once."""

    @property
    def num_shared(self) -> int:
        """Shapes that share the buffers of a larger one, as the device has no room for their own."""
        return len(self._without_room)

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run the graph once, as `Backend.run` says; float32 outputs are views of its buffers.

        Where the device's memory does not suffice the batch is run in halves, once; where that fails too, all buckets
        are closed, and the next run begins anew.
        """
        return run_within_memory(self._run, batch, reopen=self._let_go)

    def pin_items(self, item_bytes: int, num_items: int) -> PinnedPool | None:
        """Return a pool of pinned memory for items, to be closed by the caller.

        Args:
            item_bytes: Of the largest item, at least 1.
            num_items: Most items at a time, at least 1.

        Returns:
            None where there is nothing to gain, as the GPU shares the CPU's memory, or where no memory is to be had.
        """
        try:
            is_integrated = self._cuda.properties().is_integrated
            return None if self._is_closed or is_integrated else PinnedPool(self._cuda, item_bytes, num_items)
        except CudaError as error:
            _log.warning("no memory is pinned for items: they are copied once more", reason=str(error))
            return None

    def close(self) -> None:
        """Free all memory on the device; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._let_go()
            self._free()

    def _run(self, batch: Batch) -> tuple[Tensor, ...]:
        shape = self._padded(batch)
        is_new = shape not in self._buckets
        try:
            return self._bucket(shape).run(batch)
        # ONNX Runtime's classes derive from Exception alone, and importing them here would load it.
        except Exception as cause:
            # What state it is in is anybody's guess; the next run starts with new buffers.
            if bucket := self._buckets.pop(shape, None):
                bucket.close()
            if not is_new or not self._has_larger(shape):
                if isinstance(cause, InferenceError):
                    raise
                raise InferenceError("The model could not be run.") from cause
            # A small device may have no room for one more: what there is serves, at the cost of rows that are empty.
            self._without_room.add(shape)
            _log.warning("batch size shares the buffers of a larger one", shape=shape, reason=str(cause))
        return self._run(batch)

    def _bucket(self, shape: Shape) -> Bucket:
        if bucket := self._buckets.get(shape):
            self._buckets.move_to_end(shape)
            return bucket
        # Room first: on a full device the new one may only fit when the old one is gone.
        while len(self._buckets) >= self._most_buckets:
            self._buckets.popitem(last=False)[1].close()
        bucket = self._buckets[shape] = self._make(shape)
        return bucket

    def _let_go(self) -> None:
        """Close all buckets."""
        while self._buckets:
            self._buckets.popitem()[1].close()
        self._without_room.clear()

    def _padded(self, batch: Batch) -> Shape:
        if self._is_closed:
            raise InferenceError("The model is closed.")
        if not 1 <= len(batch) <= self.max_batch_size:
            raise InferenceError(f"A run takes 1 to {self.max_batch_size} items, not {len(batch)}.")
        (_, *item_shape), dtype = layout_of(batch)
        padded = (bucket_of(len(batch), self.max_batch_size), *item_shape)
        while padded in self._without_room:
            padded = (min(2 * padded[0], self.max_batch_size), *item_shape)
        self._check(padded, dtype)
        return padded

    def _has_larger(self, shape: Shape) -> bool:
        return any(other[0] > shape[0] and other[1:] == shape[1:] for other in self._buckets)
