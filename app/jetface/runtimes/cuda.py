"""CUDA: the few calls that backends need, over cuda-python 12.x or 13.x; streams and graphs that give themselves back.

cuda-python, `pip install jetface[cuda]`, is imported when CUDA is first asked for and not before: it is not installed
everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jetface.errors import BackendUnavailableError

_DEVICE = 0
"""One process runs on one device; `CUDA_VISIBLE_DEVICES` says which one that is."""

_BATCHED_COPIES_SINCE = (13, 0)


class CudaError(Exception):
    """A call of CUDA failed; the message has the error's name and text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProperties:
    """What the GPU says of itself."""

    name: str
    compute_capability: tuple[int, int]
    is_integrated: bool
    """Whether it shares the CPU's memory, as on a Jetson: there a copy between the two is waste."""
    total_bytes: int
    free_bytes: int


class Cuda:
    """CUDA on one device, over cuda-python. Holds nothing itself; addresses and handles are plain integers.

    Every method raises CudaError when its call fails. Methods may be called from any thread; a stream and what runs on
    it belong to one thread at a time.
    """

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
        """Return the address of device memory, which is not cleared."""
        return int(self._call(self._cudart.cudaMalloc, num_bytes))

    def free(self, address: int) -> None:
        """Give back device memory; waits for what the device is doing."""
        self._call(self._cudart.cudaFree, address)

    def host_alloc(self, num_bytes: int, *, is_mapped: bool) -> int:
        """Return the address of host memory that the device copies from and to without help of the CPU.

        Args:
            num_bytes: How much, at least 1.
            is_mapped: Whether kernels may also use it in place, by `device_address`.
        """
        flags = self._cudart.cudaHostAllocMapped if is_mapped else self._cudart.cudaHostAllocDefault
        return int(self._call(self._cudart.cudaHostAlloc, num_bytes, flags))

    def host_free(self, address: int) -> None:
        """Give back what `host_alloc` returned."""
        self._call(self._cudart.cudaFreeHost, address)

    def device_address(self, host_address: int) -> int:
        """Return the address by which kernels see mapped host memory."""
        return int(self._call(self._cudart.cudaHostGetDevicePointer, host_address, 0))

    def copy_to_device(self, device_address: int, host_address: int, num_bytes: int, stream: int) -> None:
        """Queue a copy from host to device memory."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._cudart.cudaMemcpyAsync, device_address, host_address, num_bytes, kind, stream)

    def copy_pieces_to_device(self, pieces: Sequence[tuple[int, int, int]], stream: int) -> None:
        """Queue copies from host to device memory, in no order, by one call where CUDA has one for that.

        Args:
            pieces: At least one, each `device_address, host_address, num_bytes`; they do not overlap.
            stream: What all of them go to.
        """
        if self._in_order is None or len(pieces) == 1:
            for piece in pieces:
                self.copy_to_device(*piece, stream)
            return
        copy, attributes = self._cudart.cudaMemcpyBatchAsync, [self._in_order]
        targets, sources, sizes = (list(column) for column in zip(*pieces, strict=True))
        self._call(copy, targets, sources, sizes, len(pieces), attributes, [0], len(attributes), stream)

    def copy_to_host(self, host_address: int, device_address: int, num_bytes: int, stream: int) -> None:
        """Queue a copy from device to host memory."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._cudart.cudaMemcpyAsync, host_address, device_address, num_bytes, kind, stream)

    def stream_create(self) -> int:
        """Return a stream that does not wait for the default one."""
        return int(self._call(self._cudart.cudaStreamCreateWithFlags, self._cudart.cudaStreamNonBlocking))

    def stream_synchronize(self, stream: int) -> None:
        """Wait until all that was queued is done, without keeping a core busy."""
        self._call(self._cudart.cudaStreamSynchronize, stream)

    def stream_destroy(self, stream: int) -> None:
        """Give back a stream."""
        self._call(self._cudart.cudaStreamDestroy, stream)

    def capture_begin(self, stream: int) -> None:
        """Note down what this thread queues from now on, instead of doing it; other threads go on as before."""
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._cudart.cudaStreamBeginCapture, stream, mode)

    def capture_end(self, stream: int) -> int:
        """Return the graph of what was queued since `capture_begin`."""
        return int(self._call(self._cudart.cudaStreamEndCapture, stream))

    def graph_instantiate(self, graph: int) -> int:
        """Return a form of a graph that can be launched."""
        return int(self._call(self._cudart.cudaGraphInstantiate, graph, 0))

    def graph_launch(self, instance: int, stream: int) -> None:
        """Queue all of a graph at once."""
        self._call(self._cudart.cudaGraphLaunch, instance, stream)

    def graph_destroy(self, graph: int) -> None:
        """Give back a graph; its instances live on."""
        self._call(self._cudart.cudaGraphDestroy, graph)

    def graph_instance_destroy(self, instance: int) -> None:
        """Give back what `graph_instantiate` returned."""
        self._call(self._cudart.cudaGraphExecDestroy, instance)

    def properties(self) -> DeviceProperties:
        """Tell of the device, and of its memory now."""
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
        """Return the newest CUDA that the driver can do, such as (12, 6)."""
        return _version(self._call(self._cudart.cudaDriverGetVersion))

    def runtime_version(self) -> tuple[int, int]:
        """Return the CUDA that runs, such as (12, 6)."""
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


def open_cuda(import_module: Callable[[], Any] = import_cudart) -> Cuda:
    """Import cuda-python and look at the device.

    Args:
        import_module: Returns cuda-python's runtime module.

    Raises:
        BackendUnavailableError: cuda-python, a GPU, or a driver that is new enough is missing; says which.
    """
    cuda = Cuda(import_module())
    try:
        cuda.sleep_while_waiting()
        cuda.properties()
    except CudaError as cause:
        raise BackendUnavailableError(f"CUDA does not start: {cause}.") from cause
    return cuda


class Stream:
    """A queue of work on the device. One thread at a time."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._handle: int | None = cuda.stream_create()

    @property
    def handle(self) -> int:
        """What libraries are given to put their work on this stream.

        Raises:
            ValueError: The stream is closed.
        """
        if self._handle is None:
            raise ValueError("the stream is closed")
        return self._handle

    def synchronize(self) -> None:
        """Wait until all that was queued is done; the thread sleeps, other Python threads run."""
        self._cuda.stream_synchronize(self.handle)

    def close(self) -> None:
        """Give the stream back; a second call does nothing."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._cuda.stream_destroy(handle)


class Graph:
    """Work that was noted down once and is queued as a whole: one call instead of one a kernel.

    It works on the addresses that were noted down: what lies there may change, the addresses may not.
    """

    def __init__(self, cuda: Cuda, instance: int) -> None:
        """Own an instance of a graph; `capture` makes one."""
        self._cuda = cuda
        self._instance: int | None = instance

    @classmethod
    def capture(cls, cuda: Cuda, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        """Note down what `enqueue` puts on `stream`; nothing of it is done.

        Args:
            cuda: The runtime.
            stream: On which nothing else is queued meanwhile.
            enqueue: Allocates and waits for nothing; must have run once for real before, as libraries allocate then.

        Raises:
            CudaError: Something cannot be noted down. The stream is as before.
        """
        cuda.capture_begin(stream.handle)
        try:
            enqueue()
        except BaseException:
            _abandon(cuda, stream)
            raise
        graph = cuda.capture_end(stream.handle)
        try:
            return cls(cuda, cuda.graph_instantiate(graph))
        finally:
            cuda.graph_destroy(graph)

    def launch(self, stream: Stream) -> None:
        """Queue all of it.

        Raises:
            ValueError: The graph is closed.
        """
        if self._instance is None:
            raise ValueError("the graph is closed")
        self._cuda.graph_launch(self._instance, stream.handle)

    def close(self) -> None:
        """Give the graph back; a second call does nothing."""
        if self._instance is not None:
            instance, self._instance = self._instance, None
            self._cuda.graph_instance_destroy(instance)


def _abandon(cuda: Cuda, stream: Stream) -> None:
    """End a capture that failed: until then the stream takes no other work."""
    try:
        graph = cuda.capture_end(stream.handle)
    except CudaError:
        return
    cuda.graph_destroy(graph)
