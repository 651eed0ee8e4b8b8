"""Memory, streams, events and graphs on a CUDA made of host memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from app.backends.cuda.buffers import DeviceBuffer, HostBuffer, TensorBuffer
from app.backends.cuda.runtime import CudaError, CudaRuntime
from app.backends.cuda.streams import Event, Graph, Stream
from tests.support.fake_cuda import FakeCuda

SHAPE = (4, 3, 2)


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


def numbers(num_rows: int) -> np.ndarray:
    return np.arange(num_rows * 6, dtype=np.float32).reshape(num_rows, 3, 2)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda cuda: DeviceBuffer(cuda, 16), "device"),
        (lambda cuda: HostBuffer(cuda, 16, is_mapped=False), "host"),
        (lambda cuda: HostBuffer(cuda, 16, is_mapped=True), "mapped"),
        (Stream, "stream"),
        (Event, "event"),
    ],
    ids=["device", "host", "mapped", "stream", "event"],
)
def test_what_is_closed_is_given_back_once_and_refuses_use(
    cuda: FakeCuda, make: Callable[[CudaRuntime], DeviceBuffer | HostBuffer | Stream | Event], kind: str
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
    with pytest.raises(ValueError, match="fit"):
        buffer.view((7,), np.float32)


def test_rows_travel_to_the_device_and_back_and_no_others(cuda: FakeCuda) -> None:
    stream = Stream(cuda)
    tensor = TensorBuffer(cuda, SHAPE, np.float32, is_integrated=False)
    tensor.upload(numbers(4), stream)
    stream.synchronize()
    tensor.upload(numbers(2) + 100, stream)
    assert cuda.bytes_to_device == 4 * 24  # queued, not done
    stream.synchronize()
    assert cuda.bytes_to_device == 6 * 24
    tensor.array[:] = 0
    tensor.fetch(3, stream)
    np.testing.assert_array_equal(tensor.array, 0)
    stream.synchronize()
    np.testing.assert_array_equal(tensor.array[:3], np.concatenate([numbers(2) + 100, numbers(4)[2:3]]))
    assert cuda.bytes_to_host == 3 * 24


def test_memory_that_is_shared_is_not_copied(cuda: FakeCuda) -> None:
    stream = Stream(cuda)
    tensor = TensorBuffer(cuda, SHAPE, np.float32, is_integrated=True)
    tensor.upload(numbers(4), stream)
    tensor.fetch(4, stream)
    stream.synchronize()
    assert cuda.bytes_to_device == cuda.bytes_to_host == 0
    assert np.frombuffer(cuda.window(tensor.address, 96), np.float32).tolist() == list(range(24))
    assert cuda.held == {"mapped": 1, "stream": 1}


@pytest.mark.parametrize("failing", ["host_alloc", "malloc", "device_address"])
@pytest.mark.parametrize("is_integrated", [False, True])
def test_a_tensor_that_finds_no_memory_holds_none(cuda: FakeCuda, failing: str, is_integrated: bool) -> None:
    cuda.failing = {failing}
    if failing == ("malloc" if is_integrated else "device_address"):
        TensorBuffer(cuda, SHAPE, np.float32, is_integrated=is_integrated).close()
    else:
        with pytest.raises(CudaError, match="out of memory"):
            TensorBuffer(cuda, SHAPE, np.float32, is_integrated=is_integrated)
    assert not cuda.held


def test_rows_of_another_type_are_refused(cuda: FakeCuda) -> None:
    tensor = TensorBuffer(cuda, SHAPE, np.float32, is_integrated=False)
    with pytest.raises(TypeError):
        tensor.upload(numbers(1).astype(np.float64), Stream(cuda))


def test_a_graph_does_again_what_was_noted_down(cuda: FakeCuda) -> None:
    stream = Stream(cuda)
    tensor = TensorBuffer(cuda, SHAPE, np.float32, is_integrated=False)
    graph = Graph.capture(cuda, stream, lambda: tensor.upload(numbers(4), stream))
    stream.synchronize()
    assert cuda.bytes_to_device == 0  # noted down, not done
    graph.launch(stream)
    graph.launch(stream)
    stream.synchronize()
    assert cuda.bytes_to_device == 2 * 96
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


def test_events_tell_the_time_between_them(cuda: FakeCuda) -> None:
    stream, start, end = Stream(cuda), Event(cuda), Event(cuda)
    start.record(stream)
    end.record(stream)
    end.synchronize()
    assert end.ms_since(start) == 1.0
