"""CUDA for real, over cuda-python 12.x or 13.x; `pip install jetface[cuda]`.

cuda-python is imported when CUDA is first asked for and not before: it is not installed everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from jetface.errors import BackendUnavailableError
from jetface.runtimes.cuda import CudaError, DeviceProperties

_DEVICE = 0
"""One process runs on one device; `CUDA_VISIBLE_DEVICES` says which one that is."""


def import_cudart() -> Any:
    """Import cuda-python's runtime module.

    Raises:
        BackendUnavailableError: It is not installed, or its libraries cannot be loaded.
    """
    try:
        try:
            from cuda.bindings import runtime as cudart  # noqa: PLC0415 - optional
        except ModuleNotFoundError:
            # Until 12.6 this was the only place; on a Jetson versions stay behind.
            from cuda import cudart  # noqa: PLC0415 - optional
    except ImportError as cause:
        raise BackendUnavailableError(
            "cuda-python cannot be imported; `pip install jetface[cuda]`, on JetPack 6 "
            "`pip install cuda-python==12.6.2.post1`."
        ) from cause
    return cudart


def open_cuda(import_module: Callable[[], Any] = import_cudart) -> CudaBindings:
    """Import cuda-python and look at the device.

    Args:
        import_module: Returns cuda-python's runtime module.

    Raises:
        BackendUnavailableError: cuda-python, a GPU, or a driver that is new enough is missing; says which.
    """
    cuda = CudaBindings(import_module())
    try:
        cuda.sleep_while_waiting()
        cuda.properties()
    except CudaError as cause:
        raise BackendUnavailableError(f"CUDA does not start: {cause}.") from cause
    return cuda


_BATCHED_COPIES_SINCE = (13, 0)


class CudaBindings:
    """`CudaRuntime` over cuda-python. Holds nothing itself."""

    def __init__(self, cudart: Any) -> None:
        """Take the module that `import_cudart` returns."""
        self._cudart = cudart

    def sleep_while_waiting(self) -> None:
        """Let threads that wait for the device sleep; by default they ask again and again, a core each.

        Where something else has started the device already, its choice may have to stay; then this does nothing.
        """
        cudart = self._cudart
        (error,) = self._attempt(cudart.cudaSetDeviceFlags, cudart.cudaDeviceScheduleBlockingSync)
        if error != cudart.cudaError_t.cudaErrorSetOnActiveProcess:
            self._check(cudart.cudaSetDeviceFlags, error)

    def malloc(self, num_bytes: int) -> int:
        """Call cudaMalloc."""
        return int(self._call(self._cudart.cudaMalloc, num_bytes))

    def free(self, address: int) -> None:
        """Call cudaFree."""
        self._call(self._cudart.cudaFree, address)

    def host_alloc(self, num_bytes: int, *, is_mapped: bool) -> int:
        """Call cudaHostAlloc."""
        flags = self._cudart.cudaHostAllocMapped if is_mapped else self._cudart.cudaHostAllocDefault
        return int(self._call(self._cudart.cudaHostAlloc, num_bytes, flags))

    def host_free(self, address: int) -> None:
        """Call cudaFreeHost."""
        self._call(self._cudart.cudaFreeHost, address)

    def device_address(self, host_address: int) -> int:
        """Call cudaHostGetDevicePointer."""
        return int(self._call(self._cudart.cudaHostGetDevicePointer, host_address, 0))

    def copy_to_device(self, device_address: int, host_address: int, num_bytes: int, stream: int) -> None:
        """Call cudaMemcpyAsync."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._cudart.cudaMemcpyAsync, device_address, host_address, num_bytes, kind, stream)

    def copy_pieces_to_device(self, pieces: Sequence[tuple[int, int, int]], stream: int) -> None:
        """Call cudaMemcpyBatchAsync where it takes what it does since CUDA 13, else cudaMemcpyAsync for each."""
        if self._in_order is None or len(pieces) == 1:
            for piece in pieces:
                self.copy_to_device(*piece, stream)
            return
        copy, attributes = self._cudart.cudaMemcpyBatchAsync, [self._in_order]
        targets, sources, sizes = (list(column) for column in zip(*pieces, strict=True))
        self._call(copy, targets, sources, sizes, len(pieces), attributes, [0], len(attributes), stream)

    def copy_to_host(self, host_address: int, device_address: int, num_bytes: int, stream: int) -> None:
        """Call cudaMemcpyAsync."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._cudart.cudaMemcpyAsync, host_address, device_address, num_bytes, kind, stream)

    def stream_create(self) -> int:
        """Call cudaStreamCreateWithFlags."""
        return int(self._call(self._cudart.cudaStreamCreateWithFlags, self._cudart.cudaStreamNonBlocking))

    def stream_synchronize(self, stream: int) -> None:
        """Call cudaStreamSynchronize; other Python threads run meanwhile."""
        self._call(self._cudart.cudaStreamSynchronize, stream)

    def stream_destroy(self, stream: int) -> None:
        """Call cudaStreamDestroy."""
        self._call(self._cudart.cudaStreamDestroy, stream)

    def event_create(self) -> int:
        """Call cudaEventCreateWithFlags."""
        return int(self._call(self._cudart.cudaEventCreateWithFlags, self._cudart.cudaEventBlockingSync))

    def event_record(self, event: int, stream: int) -> None:
        """Call cudaEventRecord."""
        self._call(self._cudart.cudaEventRecord, event, stream)

    def event_synchronize(self, event: int) -> None:
        """Call cudaEventSynchronize; other Python threads run meanwhile."""
        self._call(self._cudart.cudaEventSynchronize, event)

    def event_elapsed_ms(self, start: int, end: int) -> float:
        """Call cudaEventElapsedTime."""
        return float(self._call(self._cudart.cudaEventElapsedTime, start, end))

    def event_destroy(self, event: int) -> None:
        """Call cudaEventDestroy."""
        self._call(self._cudart.cudaEventDestroy, event)

    def capture_begin(self, stream: int) -> None:
        """Call cudaStreamBeginCapture, for this thread alone."""
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._cudart.cudaStreamBeginCapture, stream, mode)

    def capture_end(self, stream: int) -> int:
        """Call cudaStreamEndCapture."""
        return int(self._call(self._cudart.cudaStreamEndCapture, stream))

    def graph_instantiate(self, graph: int) -> int:
        """Call cudaGraphInstantiate."""
        return int(self._call(self._cudart.cudaGraphInstantiate, graph, 0))

    def graph_launch(self, instance: int, stream: int) -> None:
        """Call cudaGraphLaunch."""
        self._call(self._cudart.cudaGraphLaunch, instance, stream)

    def graph_destroy(self, graph: int) -> None:
        """Call cudaGraphDestroy."""
        self._call(self._cudart.cudaGraphDestroy, graph)

    def graph_instance_destroy(self, instance: int) -> None:
        """Call cudaGraphExecDestroy."""
        self._call(self._cudart.cudaGraphExecDestroy, instance)

    def properties(self) -> DeviceProperties:
        """Call cudaGetDeviceProperties and cudaMemGetInfo."""
        found = self._call(self._cudart.cudaGetDeviceProperties, _DEVICE)
        free_bytes, total_bytes = self._call(self._cudart.cudaMemGetInfo)
        return DeviceProperties(
            name=found.name.split(b"\0")[0].decode(),
            compute_capability=(found.major, found.minor),
            is_integrated=bool(found.integrated),
            total_bytes=total_bytes,
            free_bytes=free_bytes,
        )

    def driver_version(self) -> tuple[int, int]:
        """Call cudaDriverGetVersion."""
        return _version(self._call(self._cudart.cudaDriverGetVersion))

    def runtime_version(self) -> tuple[int, int]:
        """Call cudaRuntimeGetVersion."""
        return _version(self._call(self._cudart.cudaRuntimeGetVersion))

    @cached_property
    def _in_order(self) -> Any | None:
        """Attributes of copies that read their source when the stream comes to them; None where CUDA has none."""
        cudart = self._cudart
        if self.runtime_version() < _BATCHED_COPIES_SINCE:
            return None
        attributes = cudart.cudaMemcpyAttributes()
        attributes.srcAccessOrder = cudart.cudaMemcpySrcAccessOrder.cudaMemcpySrcAccessOrderStream
        return attributes

    def _call(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
        """Return what a function answers beside its error: nothing, one value, or a tuple."""
        error, *values = self._attempt(function, *arguments)
        self._check(function, error)
        return tuple(values) if len(values) > 1 else next(iter(values), None)

    @staticmethod
    def _attempt(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> tuple[Any, ...]:
        try:
            return function(*arguments)
        except RuntimeError as cause:
            # Where the driver's library is missing altogether, 12.x raises instead of answering with an error.
            raise CudaError(f"{function.__name__}: {cause}") from cause

    def _check(self, function: Callable[..., tuple[Any, ...]], error: Any) -> None:
        cudart = self._cudart
        if error == cudart.cudaError_t.cudaSuccess:
            return
        # CUDA remembers a thread's last error, and whoever asks next, ONNX Runtime after a kernel, takes it for theirs.
        cudart.cudaGetLastError()
        name, text = (
            answer[1].decode() for answer in (cudart.cudaGetErrorName(error), cudart.cudaGetErrorString(error))
        )
        raise CudaError(f"{function.__name__}: {name}, {text}")


def _version(number: int) -> tuple[int, int]:
    """Take 12060 apart."""
    return number // 1000, number % 1000 // 10
