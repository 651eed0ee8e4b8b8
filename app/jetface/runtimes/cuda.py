"""The few calls of CUDA that backends need, as a protocol; streams, events and graphs that give themselves back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


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


class CudaRuntime(Protocol):
    """CUDA on one device. Addresses and handles are plain integers. Every method raises CudaError when its call fails.

    Methods may be called from any thread; a stream and what runs on it belong to one thread at a time.
    """

    def malloc(self, num_bytes: int) -> int:
        """Return the address of device memory, which is not cleared."""
        ...

    def free(self, address: int) -> None:
        """Give back device memory; waits for what the device is doing."""
        ...

    def host_alloc(self, num_bytes: int, *, is_mapped: bool) -> int:
        """Return the address of host memory that the device copies from and to without help of the CPU.

        Args:
            num_bytes: How much, at least 1.
            is_mapped: Whether kernels may also use it in place, by `device_address`.
        """
        ...

    def host_free(self, address: int) -> None:
        """Give back what `host_alloc` returned."""
        ...

    def device_address(self, host_address: int) -> int:
        """Return the address by which kernels see mapped host memory."""
        ...

    def copy_to_device(self, device_address: int, host_address: int, num_bytes: int, stream: int) -> None:
        """Queue a copy from host to device memory."""
        ...

    def copy_pieces_to_device(self, pieces: Sequence[tuple[int, int, int]], stream: int) -> None:
        """Queue copies from host to device memory, in no order, by one call where CUDA has one for that.

        Args:
            pieces: At least one, each `device_address, host_address, num_bytes`; they do not overlap.
            stream: What all of them go to.
        """
        ...

    def copy_to_host(self, host_address: int, device_address: int, num_bytes: int, stream: int) -> None:
        """Queue a copy from device to host memory."""
        ...

    def stream_create(self) -> int:
        """Return a stream that does not wait for the default one."""
        ...

    def stream_synchronize(self, stream: int) -> None:
        """Wait until all that was queued is done, without keeping a core busy."""
        ...

    def stream_destroy(self, stream: int) -> None:
        """Give back a stream."""
        ...

    def event_create(self) -> int:
        """Return an event that keeps the time."""
        ...

    def event_record(self, event: int, stream: int) -> None:
        """Note the time when all that is queued so far is done."""
        ...

    def event_synchronize(self, event: int) -> None:
        """Wait until an event that was recorded has happened, without keeping a core busy."""
        ...

    def event_elapsed_ms(self, start: int, end: int) -> float:
        """Return the milliseconds between two events that have happened."""
        ...

    def event_destroy(self, event: int) -> None:
        """Give back an event."""
        ...

    def capture_begin(self, stream: int) -> None:
        """Note down what this thread queues from now on, instead of doing it; other threads go on as before."""
        ...

    def capture_end(self, stream: int) -> int:
        """Return the graph of what was queued since `capture_begin`."""
        ...

    def graph_instantiate(self, graph: int) -> int:
        """Return a form of a graph that can be launched."""
        ...

    def graph_launch(self, instance: int, stream: int) -> None:
        """Queue all of a graph at once."""
        ...

    def graph_destroy(self, graph: int) -> None:
        """Give back a graph; its instances live on."""
        ...

    def graph_instance_destroy(self, instance: int) -> None:
        """Give back what `graph_instantiate` returned."""
        ...

    def properties(self) -> DeviceProperties:
        """Tell of the device, and of its memory now."""
        ...

    def driver_version(self) -> tuple[int, int]:
        """Return the newest CUDA that the driver can do, such as (12, 6)."""
        ...

    def runtime_version(self) -> tuple[int, int]:
        """Return the CUDA that runs, such as (12, 6)."""
        ...


class Stream:
    """A queue of work on the device. One thread at a time."""

    def __init__(self, cuda: CudaRuntime) -> None:
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


class Event:
    """A point in a stream, and the time it was reached."""

    def __init__(self, cuda: CudaRuntime) -> None:
        self._cuda = cuda
        self._handle: int | None = cuda.event_create()

    @property
    def handle(self) -> int:
        """The event, as CUDA knows it.

        Raises:
            ValueError: The event is closed.
        """
        if self._handle is None:
            raise ValueError("the event is closed")
        return self._handle

    def record(self, stream: Stream) -> None:
        """Happen when all that is queued on `stream` so far is done."""
        self._cuda.event_record(self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait until it has happened."""
        self._cuda.event_synchronize(self.handle)

    def ms_since(self, start: Event) -> float:
        """Return the milliseconds from `start` to this event; both have happened."""
        return self._cuda.event_elapsed_ms(start.handle, self.handle)

    def close(self) -> None:
        """Give the event back; a second call does nothing."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._cuda.event_destroy(handle)


class Graph:
    """Work that was noted down once and is queued as a whole: one call instead of one a kernel.

    It works on the addresses that were noted down: what lies there may change, the addresses may not.
    """

    def __init__(self, cuda: CudaRuntime, instance: int) -> None:
        """Own an instance of a graph; `capture` makes one."""
        self._cuda = cuda
        self._instance: int | None = instance

    @classmethod
    def capture(cls, cuda: CudaRuntime, stream: Stream, enqueue: Callable[[], None]) -> Graph:
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


def _abandon(cuda: CudaRuntime, stream: Stream) -> None:
    """End a capture that failed: until then the stream takes no other work."""
    try:
        graph = cuda.capture_end(stream.handle)
    except CudaError:
        return
    cuda.graph_destroy(graph)
