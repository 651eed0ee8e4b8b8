"""How rows come to the device: which are copied on the host, which not, and in how many calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jetface.runtimes.cuda import Stream
from jetface.runtimes.gpu_buffers import InputBuffer, PinnedPool
from tests.support.fake_cuda import FakeCuda

SHAPE = (4, 3, 2)
ROW_BYTES = 6
LARGE = (8, 256, 256, 3)
LARGE_ROW_BYTES = 256 * 256 * 3


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


def numbers(num_rows: int, *, start: int = 0) -> NDArray[np.uint8]:
    return np.arange(start, start + num_rows * 6, dtype=np.uint8).reshape(num_rows, 3, 2)


def on_device(cuda: FakeCuda, buffer: InputBuffer) -> list[int]:
    return list(cuda.window(buffer.address, int(np.prod(buffer.shape))))


@pytest.mark.parametrize("as_list", [False, True])
def test_rows_travel_to_the_device_and_no_others(cuda: FakeCuda, as_list: bool) -> None:
    stream, buffer = Stream(cuda), InputBuffer(cuda, SHAPE, np.uint8, is_integrated=False)
    buffer.upload(numbers(4), stream)
    assert cuda.bytes_to_device == 0  # queued, not done
    stream.synchronize()
    later = numbers(2, start=100)
    buffer.upload(list(later) if as_list else later, stream)
    stream.synchronize()
    assert cuda.bytes_to_device == 6 * ROW_BYTES
    assert on_device(cuda, buffer) == [*range(100, 112), *range(12, 24)]
    assert cuda.calls["copy_to_device"] == 2  # small rows go together
    buffer.close()
    assert cuda.held == {"stream": 1}


@pytest.mark.parametrize("as_list", [False, True])
def test_large_rows_leave_while_others_are_written(cuda: FakeCuda, as_list: bool) -> None:
    stream, buffer = Stream(cuda), InputBuffer(cuda, LARGE, np.uint8, is_integrated=False)
    rows = np.random.default_rng(0).integers(0, 256, (5, *LARGE[1:]), np.uint8)
    buffer.upload(list(rows) if as_list else rows, stream)
    stream.synchronize()
    assert cuda.calls["copy_to_device"] == 3  # two, two and one: half a MiB holds two
    assert on_device(cuda, buffer)[: 5 * LARGE_ROW_BYTES] == rows.ravel().tolist()


@given(is_pinned=st.lists(st.sampled_from([None, 0, 1]), min_size=1, max_size=4))
def test_rows_in_pinned_memory_are_taken_from_where_they_lie(is_pinned: Sequence[int | None]) -> None:
    """Of two pools, some neighbours and some not, among rows in no such memory."""
    cuda = FakeCuda()
    stream, buffer = Stream(cuda), InputBuffer(cuda, SHAPE, np.uint8, is_integrated=False)
    pools = [PinnedPool(cuda, ROW_BYTES, 4) for _ in range(2)]
    rows: list[NDArray[np.uint8]] = []
    for row, pinned in zip(numbers(len(is_pinned)), is_pinned, strict=True):
        taken = None if pinned is None else pools[pinned].take((3, 2))
        rows.append(row if taken is None else taken)
        rows[-1][:] = row
    buffer.array[:] = 255
    buffer.upload(rows, stream)
    stream.synchronize()
    assert on_device(cuda, buffer)[: ROW_BYTES * len(rows)] == list(range(ROW_BYTES * len(rows)))
    kept = [(row == 255).all() for row in buffer.array[: len(rows)]]
    assert kept == [pinned is not None for pinned in is_pinned]  # nothing was written in between


@pytest.mark.parametrize(
    ("order", "num_pieces"), [([0, 1, 2, 3], 1), ([0, 1, 3, 2], 3), ([2, 3, 0, 1], 2), ([3, 2, 1, 0], 4)]
)
def test_pinned_rows_leave_in_one_call_and_neighbours_as_one_piece(
    cuda: FakeCuda, order: list[int], num_pieces: int
) -> None:
    shape = (16, 32, 3)
    stream, buffer = Stream(cuda), InputBuffer(cuda, (4, *shape), np.uint8, is_integrated=False)
    pool = PinnedPool(cuda, 16 * 32 * 3, 4)
    taken = [item for item in (pool.take(shape) for _ in range(4)) if item is not None]
    for value, item in enumerate(taken):
        item[:] = value
    buffer.upload([taken[index] for index in order], stream)
    stream.synchronize()
    assert on_device(cuda, buffer)[:: 16 * 32 * 3] == order
    assert cuda.calls["copy_to_device"] + cuda.calls["copy_pieces_to_device"] == 1
    assert cuda.calls["copy_to_device"] + cuda.num_pieces == num_pieces


def test_a_part_of_a_pinned_row_is_copied_as_any_other(cuda: FakeCuda) -> None:
    """Where it begins is not where its owner does."""
    stream, buffer = Stream(cuda), InputBuffer(cuda, SHAPE, np.uint8, is_integrated=False)
    whole = PinnedPool(cuda, 2 * ROW_BYTES, 1).take((3, 4))
    assert whole is not None
    whole[:] = np.arange(12).reshape(3, 4)
    buffer.upload([whole[:, 1:3]], stream)
    stream.synchronize()
    assert on_device(cuda, buffer)[:ROW_BYTES] == [1, 2, 5, 6, 9, 10]


@pytest.mark.parametrize("as_list", [False, True])
def test_where_memory_is_shared_rows_are_copied_once_and_that_is_all(cuda: FakeCuda, as_list: bool) -> None:
    stream, buffer = Stream(cuda), InputBuffer(cuda, SHAPE, np.uint8, is_integrated=True)
    buffer.upload(list(numbers(4)) if as_list else numbers(4), stream)
    assert on_device(cuda, buffer) == list(range(24))
    assert cuda.calls["copy_to_device"] == 0
    assert cuda.held == {"mapped": 1, "stream": 1}


def test_rows_of_another_type_are_refused(cuda: FakeCuda) -> None:
    buffer = InputBuffer(cuda, SHAPE, np.uint8, is_integrated=False)
    for batch in (numbers(1).astype(np.float64), [numbers(1)[0].astype(np.float64)]):
        with pytest.raises(TypeError):
            buffer.upload(batch, Stream(cuda))
