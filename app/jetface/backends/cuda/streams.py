"""Streams, events and graphs that give themselves back."""

from __future__ import annotations

from collections.abc import Callable

from jetface.backends.cuda.runtime import CudaError, CudaRuntime


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
