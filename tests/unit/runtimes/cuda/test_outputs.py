"""How outputs come back: in as few copies as pay, each where it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jetface.runtimes.cuda import CudaError, Stream
from jetface.runtimes.gpu_buffers import OutputBuffers
from tests.support.fake_cuda import FakeCuda

FLOAT, HALF = np.dtype(np.float32), np.dtype(np.float16)
KIB_ROW = (256,)
"""Of float32: 1 KiB."""


def outputs_of(
    cuda: FakeCuda,
    shapes: Sequence[tuple[int, ...]],
    bucket: int,
    *,
    is_integrated: bool = False,
    dtype: np.dtype = FLOAT,
) -> OutputBuffers:
    return OutputBuffers(cuda, [(shape, dtype) for shape in shapes], bucket, is_integrated=is_integrated)


def fill(
    cuda: FakeCuda, outputs: OutputBuffers, shapes: Sequence[tuple[int, ...]], dtype: np.dtype = FLOAT
) -> list[NDArray[Any]]:
    """Write what a kernel would, other numbers to each output."""
    written = []
    for number, (shape, address) in enumerate(zip(shapes, outputs.addresses, strict=True)):
        values = (np.arange(np.prod(shape)).reshape(shape) % 97 + 100 * number).astype(dtype)
        if values.size:
            cuda.window(address, values.nbytes)[:] = values.tobytes()
        written.append(values)
    return written


def fetched(cuda: FakeCuda, outputs: OutputBuffers, num_items: int) -> tuple[NDArray[Any], ...]:
    stream = Stream(cuda)
    outputs.fetch(num_items, stream)
    stream.synchronize()
    stream.close()
    return outputs.answers(num_items)


@given(
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=9),
    bucket=st.integers(1, 8),
    data=st.data(),
    is_integrated=st.booleans(),
    dtype=st.sampled_from([FLOAT, HALF]),
)
def test_answers_are_the_used_rows_in_float32(
    lengths: list[int], bucket: int, data: st.DataObject, is_integrated: bool, dtype: np.dtype
) -> None:
    cuda = FakeCuda()
    shapes = [(bucket, length) for length in lengths]
    outputs = outputs_of(cuda, shapes, bucket, is_integrated=is_integrated, dtype=dtype)
    assert all(address % 256 == outputs.addresses[0] % 256 for address in outputs.addresses)
    written = fill(cuda, outputs, shapes, dtype)
    for num_items in data.draw(st.lists(st.integers(1, bucket), min_size=1, max_size=3)):
        answers = fetched(cuda, outputs, num_items)
        for answer, values in zip(answers, written, strict=True):
            assert (answer.dtype, answer.flags.c_contiguous) == (np.dtype(np.float32), True)
            np.testing.assert_array_equal(answer, values[:num_items].astype(np.float32))
    outputs.close()
    assert not cuda.held


def test_a_full_bucket_comes_in_one_copy() -> None:
    cuda, shapes = FakeCuda(), [(8, 5), (8, 7), (8, 999)]
    outputs = outputs_of(cuda, shapes, 8)
    fill(cuda, outputs, shapes)
    fetched(cuda, outputs, 8)
    assert cuda.calls["copy_to_host"] == 1


@pytest.mark.parametrize(
    ("rows_kib", "num_items", "num_copies"),
    [
        pytest.param(16, 7, 1, id="one row of 3 outputs unused is less than two more copies"),
        pytest.param(16, 1, 3, id="seven rows unused are more"),
        pytest.param(256, 7, 3, id="one large row unused is more"),
    ],
)
def test_rows_that_nobody_asked_for_come_along_where_that_is_cheaper(
    rows_kib: int, num_items: int, num_copies: int
) -> None:
    cuda = FakeCuda()
    shapes = [(8, rows_kib * 256)] * 3
    outputs = outputs_of(cuda, shapes, 8)
    written = fill(cuda, outputs, shapes)
    answers = fetched(cuda, outputs, num_items)
    assert cuda.calls["copy_to_host"] == num_copies
    for answer, values in zip(answers, written, strict=True):
        np.testing.assert_array_equal(answer, values[:num_items])


def test_an_output_without_a_row_an_item_comes_whole() -> None:
    cuda, shapes = FakeCuda(), [(4, 3), (100, 2)]
    outputs = outputs_of(cuda, shapes, 4)
    written = fill(cuda, outputs, shapes)
    answers = fetched(cuda, outputs, 1)
    np.testing.assert_array_equal(answers[0], written[0][:1])
    np.testing.assert_array_equal(answers[1], written[1])


def test_answers_are_views_which_the_next_fetch_overwrites() -> None:
    cuda, shapes = FakeCuda(), [(2, 3)]
    outputs = outputs_of(cuda, shapes, 2)
    fill(cuda, outputs, shapes)
    (first,) = fetched(cuda, outputs, 2)
    cuda.window(outputs.addresses[0], 24)[:] = np.full(6, -1, np.float32).tobytes()
    fetched(cuda, outputs, 2)
    np.testing.assert_array_equal(first, -1)


@pytest.mark.parametrize("failing", ["malloc", "host_alloc"])
def test_outputs_that_find_no_memory_hold_none(failing: str) -> None:
    cuda = FakeCuda()
    cuda.failing = {failing}
    with pytest.raises(CudaError):
        outputs_of(cuda, [(2, 3)], 2)
    assert not cuda.held
