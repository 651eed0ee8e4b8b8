"""Memory, streams, events and graphs on a CUDA made of host memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from jetface.runtimes.cuda import Cuda, CudaError, Graph, Stream
from jetface.runtimes.gpu_buffers import DeviceBuffer, HostBuffer, PairedBuffer
from tests.support.fake_cuda import FakeCuda

NUM_BYTES = 96


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda cuda: DeviceBuffer(cuda, 16), "device"),
        (lambda cuda: HostBuffer(cuda, 16, is_mapped=False), "host"),
        (lambda cuda: HostBuffer(cuda, 16, is_mapped=True), "mapped"),
        (Stream, "stream"),
    ],
    ids=["device", "host", "mapped", "stream"],
)
def test_what_is_closed_is_given_back_once_and_refuses_use(
    cuda: FakeCuda, make: Callable[[Cuda], DeviceBuffer | HostBuffer | Stream], kind: str
) -> None:
    held = make(cuda)
    assert cuda.held == {kind: 1}
    held.close()
    held.close()
    assert not cuda.held
    with pytest.raises(ValueError, match="closed"):
        held.address if isinstance(held, DeviceBuffer | HostBuffer) else held.handle


def test_a_view_is_the_buffer_itself(cuda: FakeCuda) -> None:
    buffer = HostBuffer(cuda, 24, is_mapped=False)
    buffer.view((3, 2), np.float32)[:] = 7
    np.testing.assert_array_equal(buffer.view((6,), np.float32), np.full(6, 7, np.float32))
    buffer.view((2,), np.float32, offset=16)[:] = 9
    np.testing.assert_array_equal(buffer.view((6,), np.float32), np.array([7, 7, 7, 7, 9, 9], np.float32))
    for length, offset in ((7, 0), (2, 20)):
        with pytest.raises(ValueError, match="fit"):
            buffer.view((length,), np.float32, offset=offset)


@pytest.mark.parametrize("failing", ["host_alloc", "malloc", "device_address"])
@pytest.mark.parametrize("is_integrated", [False, True])
def test_a_pair_that_finds_no_memory_holds_none(cuda: FakeCuda, failing: str, is_integrated: bool) -> None:
    cuda.failing = {failing}
    if failing == ("malloc" if is_integrated else "device_address"):
        PairedBuffer(cuda, NUM_BYTES, is_integrated=is_integrated).close()
    else:
        with pytest.raises(CudaError, match="out of memory"):
            PairedBuffer(cuda, NUM_BYTES, is_integrated=is_integrated)
    assert not cuda.held


def test_a_graph_does_again_what_was_noted_down(cuda: FakeCuda) -> None:
    stream = Stream(cuda)
    pair = PairedBuffer(cuda, NUM_BYTES, is_integrated=False)
    graph = Graph.capture(
        cuda, stream, lambda: cuda.copy_to_device(pair.address, pair.host.address, NUM_BYTES, stream.handle)
    )
    stream.synchronize()
    assert cuda.bytes_to_device == 0  # noted down, not done
    graph.launch(stream)
    graph.launch(stream)
    stream.synchronize()
    assert cuda.bytes_to_device == 2 * NUM_BYTES
    assert cuda.held["graph"] == 0  # only the instance is kept
    graph.close()
    graph.close()
    assert cuda.held["instance"] == 0
    with pytest.raises(ValueError, match="closed"):
        graph.launch(stream)


def test_what_waits_cannot_be_captured_and_the_stream_lives_on(cuda: FakeCuda) -> None:
    stream = Stream(cuda)
    with pytest.raises(CudaError, match="Capture"):
        Graph.capture(cuda, stream, stream.synchronize)
    stream.synchronize()
    assert cuda.held == {"stream": 1}


@pytest.mark.parametrize("failing", ["capture_begin", "capture_end", "graph_instantiate"])
def test_a_capture_that_fails_leaves_nothing_behind(cuda: FakeCuda, failing: str) -> None:
    stream = Stream(cuda)
    cuda.failing = {failing}
    with pytest.raises(CudaError):
        Graph.capture(cuda, stream, lambda: None)
    assert cuda.held == {"stream": 1}


def test_a_capture_that_cannot_even_be_ended_tells_the_first_error(cuda: FakeCuda) -> None:
    stream = Stream(cuda)
    cuda.failing = {"capture_end"}

    def fail() -> None:
        raise RuntimeError("first")

    with pytest.raises(RuntimeError, match="first"):
        Graph.capture(cuda, stream, fail)
