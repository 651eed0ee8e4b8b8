"""Memory on either side of the bus, and memory that has a place on both."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jetface.backends.cuda.runtime import CudaRuntime


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

    def __init__(self, cuda: CudaRuntime, num_bytes: int, *, is_integrated: bool) -> None:
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
