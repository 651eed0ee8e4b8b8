"""Batches as one array or item by item."""

from __future__ import annotations

import numpy as np
import pytest

from jetface.domain import Batch, Tensor
from jetface.errors import DeviceMemoryError, InferenceError
from jetface.runtimes.backend import layout_of, run_within_memory, stacked


def test_an_array_is_itself_and_a_single_item_is_not_copied() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    assert stacked(pictures) is pictures
    assert np.shares_memory(stacked([pictures[0]]), pictures)
    np.testing.assert_array_equal(stacked(list(pictures)), pictures)
    assert stacked([pictures[0][:, 2:6]]).flags.c_contiguous


def test_items_have_the_layout_of_the_array_they_make() -> None:
    pictures = np.zeros((3, 8, 6, 3), np.dtype(np.uint8))
    assert layout_of(list(pictures)) == layout_of(pictures) == ((3, 8, 6, 3), np.dtype(np.uint8))


@pytest.mark.parametrize(
    "batch",
    [[], [np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)], [np.zeros(2, np.uint8), np.zeros(2, np.float32)]],
    ids=["none", "shape", "type"],
)
def test_what_makes_no_array_is_an_error(batch: list[np.ndarray]) -> None:
    for read in (layout_of, stacked):
        with pytest.raises(InferenceError):
            read(batch)


class FullDevice:
    """Has memory for so many items."""

    def __init__(self, most_items: int, words: str) -> None:
        self.most_items = most_items
        self.words = words
        self.sizes: list[int] = []
        self.num_reopened = 0
        self.answer = np.zeros((8, 1), np.float32)
        """Overwritten by each run, as a backend's buffers are."""

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Double the items."""
        self.sizes.append(len(batch))
        if len(batch) > self.most_items:
            raise InferenceError("The model could not be run.") from RuntimeError(self.words)
        self.answer[: len(batch)] = 2 * stacked(batch)
        return (self.answer[: len(batch)],)

    def reopen(self) -> None:
        """Count it."""
        self.num_reopened += 1


@pytest.mark.parametrize(
    "words",
    [
        "CUDA failure 2: out of memory ; GPU=0",
        "BFCArena::AllocateRawInternal(size_t) Failed to allocate memory for requested buffer of size 67108864",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "malloc: cudaErrorMemoryAllocation",
        "std::bad_alloc",
    ],
)
def test_a_batch_for_which_there_is_no_memory_is_run_in_halves_once(words: str) -> None:
    device = FullDevice(4, words)
    batch = np.arange(7, dtype=np.float32)[:, None]
    (answer,) = run_within_memory(device.run, batch, reopen=device.reopen)
    np.testing.assert_array_equal(answer, 2 * batch)
    assert (device.sizes, device.num_reopened) == ([7, 4, 3], 1)
    device.most_items = 3
    with pytest.raises(DeviceMemoryError):
        run_within_memory(device.run, batch, reopen=device.reopen)
    assert (device.sizes, device.num_reopened) == ([7, 4, 3, 7, 4], 3)


def test_another_failure_is_not_tried_again() -> None:
    device = FullDevice(0, "illegal memory access")
    with pytest.raises(InferenceError) as caught:
        run_within_memory(device.run, np.zeros((2, 1), np.float32), reopen=device.reopen)
    assert type(caught.value) is InferenceError
    assert (device.sizes, device.num_reopened) == ([2], 0)
