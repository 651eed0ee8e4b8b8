"""Pinned memory for items: on loan to arrays, bounded, and there for as long as an array needs it."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

from jetface.runtimes.cuda import CudaError
from jetface.runtimes.gpu_buffers import PinnedPool, block_of
from tests.support.fake_cuda import FakeCuda

SHAPE = (32, 32, 3)
ITEM_BYTES = 32 * 32 * 3


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


def test_a_pool_hands_out_so_many_and_no_more_until_one_is_gone(cuda: FakeCuda) -> None:
    pool = PinnedPool(cuda, ITEM_BYTES, 3)
    taken = [pool.take(SHAPE) for _ in range(4)]
    assert [item is None for item in taken] == [False, False, False, True]
    assert pool.num_free == 0
    del taken[1]
    assert pool.num_free == 1
    assert pool.take(SHAPE) is not None
    assert cuda.calls["host_alloc"] == 1


def test_items_made_one_after_the_other_are_neighbours_and_few_blocks_are_used(cuda: FakeCuda) -> None:
    pool = PinnedPool(cuda, ITEM_BYTES, 64)
    addresses = []
    for _ in range(20):
        items = [item for item in (pool.take(SHAPE) for _ in range(4)) if item is not None]
        addresses.append([item.ctypes.data for item in items])
        items.reverse()
        items.clear()
    first = addresses[0][0]
    assert addresses == [[first + index * ITEM_BYTES for index in range(4)]] * 20


def test_items_do_not_overlap_and_are_plain_arrays(cuda: FakeCuda) -> None:
    pool = PinnedPool(cuda, ITEM_BYTES, 5)
    items = [pool.take(shape) for shape in (SHAPE, (32, 31, 3), SHAPE, (16, 32, 3), SHAPE)]
    for value, item in enumerate(items):
        assert item is not None
        assert item.flags.c_contiguous
        assert item.flags.writeable
        assert item.dtype == np.uint8
        item[:] = value
    for value, item in enumerate(items):
        assert item is not None
        assert (item == value).all()


def test_an_item_too_large_or_too_small_to_be_worth_a_block_is_refused(cuda: FakeCuda) -> None:
    pool = PinnedPool(cuda, ITEM_BYTES, 2)
    assert pool.take((33, 32, 3)) is None
    assert pool.take((16, 32, 3)) is not None
    assert pool.take((15, 32, 3)) is None


def test_only_the_array_itself_is_known_by_its_address(cuda: FakeCuda) -> None:
    item = PinnedPool(cuda, ITEM_BYTES, 1).take(SHAPE)
    assert item is not None
    block = block_of(item)
    assert block is not None
    assert block.address == item.ctypes.data
    for other in (item[1:], item[:], item[::-1], item.reshape(-1), item.copy(), np.zeros(SHAPE, np.uint8)):
        assert block_of(other) is None


def test_a_view_keeps_the_memory(cuda: FakeCuda) -> None:
    pool = PinnedPool(cuda, ITEM_BYTES, 1)
    item = pool.take(SHAPE)
    assert item is not None
    row = item[3]
    row[:] = 7
    del item
    assert pool.num_free == 0
    assert pool.take(SHAPE) is None
    assert (row == 7).all()
    del row
    assert pool.num_free == 1


def test_what_a_garbage_collection_finds_comes_back_too(cuda: FakeCuda) -> None:
    pool = PinnedPool(cuda, ITEM_BYTES, 1)
    ring: list[Any] = [pool.take(SHAPE)]
    ring.append(ring)
    del ring
    gc.collect()
    assert pool.num_free == 1


def test_memory_outlives_the_pool_until_the_last_array_is_gone(cuda: FakeCuda) -> None:
    pool = PinnedPool(cuda, ITEM_BYTES, 3)
    kept, other = pool.take(SHAPE), pool.take(SHAPE)
    assert kept is not None
    kept[:] = 5
    pool.close()
    pool.close()
    assert pool.take(SHAPE) is None
    del other, pool
    assert cuda.held == {"host": 1}
    assert (kept == 5).all()
    del kept
    assert not cuda.held


def test_a_pool_that_nobody_uses_is_gone_at_once(cuda: FakeCuda) -> None:
    PinnedPool(cuda, ITEM_BYTES, 3).close()
    assert not cuda.held


def test_memory_that_cannot_be_given_back_is_nobodys_error(cuda: FakeCuda) -> None:
    pool = PinnedPool(cuda, ITEM_BYTES, 1)
    cuda.failing = {"host_free"}
    pool.close()
    assert cuda.calls["host_free"] == 1
    assert cuda.held == {"host": 1}


def test_a_pool_that_finds_no_memory_is_an_error(cuda: FakeCuda) -> None:
    cuda.failing = {"host_alloc"}
    with pytest.raises(CudaError):
        PinnedPool(cuda, ITEM_BYTES, 1)


def test_threads_take_and_give_back_while_the_pool_closes(cuda: FakeCuda) -> None:
    """Nobody is handed what another has, and in the end all of it is given back, once."""
    pool = PinnedPool(cuda, ITEM_BYTES, 4)
    clashes, refused, is_closed = [], [0], threading.Event()

    def work(value: int) -> None:
        done = 0
        while done < 300:
            item = pool.take(SHAPE)
            if item is None:
                refused[0] += 1
                if is_closed.is_set():
                    return
                continue
            item[:] = value
            if not (item == value).all():
                clashes.append(value)
            done += 1

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    threads[0].join()
    pool.close()
    is_closed.set()
    for thread in threads:
        thread.join()
    assert not clashes
    assert not cuda.held
    assert cuda.calls["host_free"] == 1
