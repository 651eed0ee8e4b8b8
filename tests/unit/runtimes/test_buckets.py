"""Batch sizes, and warming them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.runtimes.backend import bucket_of, buckets_up_to, layout_of, warm
from tests.support.function_backend import FunctionBackend

sizes = st.integers(1, 2048)


@pytest.mark.parametrize(
    ("most", "buckets"),
    [(1, (1,)), (2, (1, 2)), (4, (1, 2, 4)), (12, (1, 2, 4, 8, 12)), (33, (1, 2, 4, 8, 16, 32, 33))],
)
def test_buckets_are_powers_of_two_and_the_largest_batch(most: int, buckets: tuple[int, ...]) -> None:
    assert buckets_up_to(most) == buckets


@given(most=sizes, data=st.data())
def test_every_batch_has_the_smallest_bucket_that_holds_it(most: int, data: st.DataObject) -> None:
    num_items = data.draw(st.integers(1, most))
    buckets = buckets_up_to(most)
    assert list(buckets) == sorted(set(buckets))
    assert bucket_of(num_items, most) == min(bucket for bucket in buckets if bucket >= num_items)


@given(most=sizes, data=st.data())
def test_less_than_half_of_a_bucket_is_padding(most: int, data: st.DataObject) -> None:
    num_items = data.draw(st.integers(1, most))
    assert bucket_of(num_items, most) < 2 * num_items


def test_warming_runs_each_bucket_of_each_shape_large_ones_first() -> None:
    backend = FunctionBackend(lambda batch: (batch,), max_batch_size=5)
    warm(backend, [(3, 8, 8), (3, 4, 4)])
    assert [np.shape(batch) for batch in backend.batches] == [
        (bucket, 3, side, side) for side in (8, 4) for bucket in (5, 4, 2, 1)
    ]
    assert layout_of(backend.batches[0])[1] == np.float32


def test_warming_can_run_each_bucket_twice_on_pixels() -> None:
    backend = FunctionBackend(lambda batch: (batch,), max_batch_size=2)
    warm(backend, [(8, 8, 3)], np.uint8, num_runs=2)
    layouts = [layout_of(batch) for batch in backend.batches]
    assert layouts == [((size, 8, 8, 3), np.dtype(np.uint8)) for size in (2, 2, 1, 1)]
