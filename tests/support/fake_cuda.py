"""CUDA without a GPU: device memory is host memory, and work on a stream is done when the stream is waited for."""

from __future__ import annotations

import ctypes
import itertools
from collections import Counter
from collections.abc import Callable, Sequence

from jetface.runtimes.cuda import Cuda, CudaError, DeviceProperties

_TOTAL_BYTES = 1 << 30


class FakeCuda(Cuda):
    """Stands in for `Cuda`; counts what is held and copied. One thread.

    Addresses are real, so that code in C can work on them. As on a GPU, what is queued is not done yet: who forgets to
    wait reads what was there before. Host and device memory are told apart, copies beyond either's end are errors.
    """

    def __init__(self, *, is_integrated: bool = False, is_eager: bool = False) -> None:
        """Create a device.

        Args:
            is_integrated: Whether it says that it shares the CPU's memory.
            is_eager: Do at once what is queued: for runs by a library that knows nothing of these streams.
        """
        self.is_integrated = is_integrated
        self.is_eager = is_eager
        self.calls: Counter[str] = Counter()
        """By name of the method."""
        self.bytes_to_device = 0
        self.num_pieces = 0
        self.bytes_to_host = 0
        self.failing: set[str] = set()
        """Names of methods that fail from now on."""
        self.mallocs_left: int | None = None
        """How often `malloc` still succeeds; None for ever."""
        self.largest_bytes = _TOTAL_BYTES
        """Most that `malloc` gives at a time."""
        self._memory: dict[int, tuple[str, ctypes.Array[ctypes.c_char]]] = {}
        self._handles: dict[int, str] = {}
        self._numbers = itertools.count(1)
        self._queues: dict[int, list[Callable[[], None]]] = {}
        self._captures: dict[int, list[Callable[[], None]]] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}

    @property
    def held(self) -> Counter[str]:
        """What was not given back, by kind: `device`, `host`, `mapped`, `stream`, `graph`, `instance`."""
        return Counter(kind for kind, _ in self._memory.values()) + Counter(self._handles.values())

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Queue what a kernel would do."""
        self._note("enqueue")
        if stream in self._captures:
            self._captures[stream].append(work)
        elif self.is_eager:
            work()
        else:
            self._queues[stream].append(work)

    def is_capturing(self, stream: int) -> bool:
        """Tell whether work is noted down instead of done."""
        return stream in self._captures

    def window(self, address: int, num_bytes: int) -> memoryview:
        """Return device memory, or mapped memory, as a kernel sees it."""
        buffer, offset = self._find(address, num_bytes, "device", "mapped")
        return memoryview(buffer).cast("B")[offset : offset + num_bytes]

    def malloc(self, num_bytes: int) -> int:
        """As `Cuda.malloc`."""
        self._note("malloc")
        if num_bytes > self.largest_bytes or self.mallocs_left == 0:
            raise CudaError("malloc: cudaErrorMemoryAllocation, out of memory")
        if self.mallocs_left is not None:
            self.mallocs_left -= 1
        return self._allocate("device", num_bytes)

    def free(self, address: int) -> None:
        """As `Cuda.free`."""
        self._note("free")
        self._release(address, "device")

    def host_alloc(self, num_bytes: int, *, is_mapped: bool) -> int:
        """As `Cuda.host_alloc`."""
        self._note("host_alloc")
        return self._allocate("mapped" if is_mapped else "host", num_bytes)

    def host_free(self, address: int) -> None:
        """As `Cuda.host_free`."""
        self._note("host_free")
        self._release(address, "host", "mapped")

    def device_address(self, host_address: int) -> int:
        """As `Cuda.device_address`."""
        self._note("device_address")
        self._find(host_address, 1, "mapped")
        return host_address

    def copy_to_device(self, device_address: int, host_address: int, num_bytes: int, stream: int) -> None:
        """As `Cuda.copy_to_device`."""
        self._note("copy_to_device")
        self._copy(device_address, host_address, num_bytes, stream)

    def copy_pieces_to_device(self, pieces: Sequence[tuple[int, int, int]], stream: int) -> None:
        """As `Cuda.copy_pieces_to_device`."""
        self._note("copy_pieces_to_device")
        self.num_pieces += len(pieces)
        for piece in pieces:
            self._copy(*piece, stream)

    def _copy(self, device_address: int, host_address: int, num_bytes: int, stream: int) -> None:
        self._find(device_address, num_bytes, "device")
        self._find(host_address, num_bytes, "host", "mapped")

        def work() -> None:
            self.bytes_to_device += num_bytes
            ctypes.memmove(device_address, host_address, num_bytes)

        self.enqueue(stream, work)

    def copy_to_host(self, host_address: int, device_address: int, num_bytes: int, stream: int) -> None:
        """As `Cuda.copy_to_host`."""
        self._note("copy_to_host")
        self._find(device_address, num_bytes, "device")
        self._find(host_address, num_bytes, "host", "mapped")

        def work() -> None:
            self.bytes_to_host += num_bytes
            ctypes.memmove(host_address, device_address, num_bytes)

        self.enqueue(stream, work)

    def stream_create(self) -> int:
        """As `Cuda.stream_create`."""
        self._note("stream_create")
        stream = self._handle("stream")
        self._queues[stream] = []
        return stream

    def stream_synchronize(self, stream: int) -> None:
        """As `Cuda.stream_synchronize`."""
        self._note("stream_synchronize")
        if stream in self._captures:
            raise CudaError("cudaStreamSynchronize: cudaErrorStreamCaptureUnsupported, waiting cannot be captured")
        queue, self._queues[stream] = self._queues[stream], []
        for work in queue:
            work()

    def stream_destroy(self, stream: int) -> None:
        """As `Cuda.stream_destroy`."""
        self._note("stream_destroy")
        del self._queues[stream]
        del self._handles[stream]

    def capture_begin(self, stream: int) -> None:
        """As `Cuda.capture_begin`."""
        self._note("capture_begin")
        self._captures[stream] = []

    def capture_end(self, stream: int) -> int:
        """As `Cuda.capture_end`."""
        works = self._captures.pop(stream)
        self._note("capture_end")
        graph = self._handle("graph")
        self._graphs[graph] = works
        return graph

    def graph_instantiate(self, graph: int) -> int:
        """As `Cuda.graph_instantiate`."""
        self._note("graph_instantiate")
        instance = self._handle("instance")
        self._graphs[instance] = list(self._graphs[graph])
        return instance

    def graph_launch(self, instance: int, stream: int) -> None:
        """As `Cuda.graph_launch`."""
        self._note("graph_launch")
        self._known(instance, "instance")
        for work in self._graphs[instance]:
            self.enqueue(stream, work)

    def graph_destroy(self, graph: int) -> None:
        """As `Cuda.graph_destroy`."""
        self._note("graph_destroy")
        del self._handles[graph], self._graphs[graph]

    def graph_instance_destroy(self, instance: int) -> None:
        """As `Cuda.graph_instance_destroy`."""
        self._note("graph_instance_destroy")
        del self._handles[instance], self._graphs[instance]

    def properties(self) -> DeviceProperties:
        """As `Cuda.properties`."""
        self._note("properties")
        used = sum(len(buffer) for kind, buffer in self._memory.values() if kind == "device")
        return DeviceProperties(
            name="Fake GPU",
            compute_capability=(8, 7),
            is_integrated=self.is_integrated,
            total_bytes=_TOTAL_BYTES,
            free_bytes=_TOTAL_BYTES - used,
        )

    def driver_version(self) -> tuple[int, int]:
        """As `Cuda.driver_version`."""
        return (12, 6)

    def runtime_version(self) -> tuple[int, int]:
        """As `Cuda.runtime_version`."""
        return (12, 6)

    def _note(self, name: str) -> None:
        self.calls[name] += 1
        if name in self.failing:
            raise CudaError(f"{name}: cudaErrorMemoryAllocation, out of memory")

    def _allocate(self, kind: str, num_bytes: int) -> int:
        buffer = (ctypes.c_char * num_bytes)()
        ctypes.memset(buffer, 0x7F, num_bytes)  # as on a GPU, what is there before is not zero
        address = ctypes.addressof(buffer)
        self._memory[address] = (kind, buffer)
        return address

    def _release(self, address: int, *kinds: str) -> None:
        kind, _ = self._memory.pop(address)
        assert kind in kinds

    def _find(self, address: int, num_bytes: int, *kinds: str) -> tuple[ctypes.Array[ctypes.c_char], int]:
        for start, (kind, buffer) in self._memory.items():
            if kind in kinds and start <= address and address + num_bytes <= start + len(buffer):
                return buffer, address - start
        raise CudaError("cudaErrorInvalidValue, invalid argument")

    def _handle(self, kind: str) -> int:
        handle = next(self._numbers)
        self._handles[handle] = kind
        return handle

    def _known(self, handle: int, kind: str) -> None:
        if self._handles.get(handle) != kind:
            raise CudaError("cudaErrorInvalidResourceHandle, invalid resource handle")
