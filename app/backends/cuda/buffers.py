"""Memory on either side of the bus, and tensors that have a place on both."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from app.backends.cuda.runtime import CudaRuntime
from app.backends.cuda.streams import Stream


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

    def __init__(self, cuda: CudaRuntime, num_bytes: int) -> None:
        super().__init__(cuda.malloc(num_bytes), num_bytes, cuda.free)


class HostBuffer(_Buffer):
    """Memory of the host that stays where it is: copies to the device need no help of the CPU, or no copy is needed."""

    def __init__(self, cuda: CudaRuntime, num_bytes: int, *, is_mapped: bool) -> None:
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

    def view(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return its beginning as an array, no copy; the array must not be touched once the buffer is closed.

        Raises:
            ValueError: The buffer is closed, or smaller than that.
        """
        num_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if num_bytes > self.num_bytes:
            raise ValueError(f"{num_bytes} bytes do not fit into {self.num_bytes}")
        window = memoryview((ctypes.c_uint8 * num_bytes).from_address(self.address)).cast("B")
        view: NDArray[Any] = np.frombuffer(window, np.dtype(dtype)).reshape(tuple(shape))
        return view


class TensorBuffer:
    """One input or output of a graph at one shape: an array for the CPU, an address for kernels.

    On a GPU with memory of its own these are two places with copies between them; on one that shares the CPU's memory
    they are one place, and the copies are none.
    """

    def __init__(self, cuda: CudaRuntime, shape: Sequence[int], dtype: DTypeLike, *, is_integrated: bool) -> None:
        """Allocate.

        Args:
            cuda: The runtime.
            shape: All axes fixed.
            dtype: Of its elements.
            is_integrated: Whether the GPU shares the CPU's memory.
        """
        self._cuda = cuda
        self.shape = tuple(shape)
        num_bytes = max(1, int(np.prod(self.shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        self._host = HostBuffer(cuda, num_bytes, is_mapped=is_integrated)
        self._device: DeviceBuffer | None = None
        try:
            self._device = None if is_integrated else DeviceBuffer(cuda, num_bytes)
            self.address = self._device.address if self._device else self._host.device_address
            """Where it begins, as kernels see it."""
        except BaseException:
            self._host.close()
            raise
        self.array = self._host.view(self.shape, dtype)
        """The CPU's side; not to be touched once this is closed."""

    def upload(self, rows: NDArray[Any], stream: Stream) -> None:
        """Write the first `len(rows)` rows and queue their way to the device; the others keep what they had.

        Args:
            rows: (n, ...), n at most that of the shape, all other axes alike.
            stream: Whose later work sees them.
        """
        target = self.array[: len(rows)]
        np.copyto(target, rows, casting="no")
        if self._device is not None:
            self._cuda.copy_to_device(self._device.address, self._host.address, target.nbytes, stream.handle)

    def fetch(self, num_rows: int, stream: Stream) -> None:
        """Queue the way of the first rows to the CPU's side: they are in `array` when `stream` was waited for."""
        if self._device is not None:
            num_bytes = self.array[:num_rows].nbytes
            self._cuda.copy_to_host(self._host.address, self._device.address, num_bytes, stream.handle)

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        self._host.close()
        if self._device is not None:
            self._device.close()
