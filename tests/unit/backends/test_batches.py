"""Batches as one array or item by item."""

from __future__ import annotations

import numpy as np
import pytest

from app.backends.batches import layout_of, stacked
from app.errors import InferenceError


def test_an_array_is_itself_and_a_single_item_is_not_copied() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    assert stacked(pictures) is pictures
    assert np.shares_memory(stacked([pictures[0]]), pictures)
    np.testing.assert_array_equal(stacked(list(pictures)), pictures)
    assert stacked([pictures[0][:, 2:6]]).flags.c_contiguous


def test_items_have_the_layout_of_the_array_they_make() -> None:
    pictures = np.zeros((3, 8, 6, 3), np.uint8)
    assert layout_of(list(pictures)) == layout_of(pictures) == ((3, 8, 6, 3), np.uint8)


@pytest.mark.parametrize(
    "batch",
    [[], [np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)], [np.zeros(2, np.uint8), np.zeros(2, np.float32)]],
    ids=["none", "shape", "type"],
)
def test_what_makes_no_array_is_an_error(batch: list[np.ndarray]) -> None:
    for read in (layout_of, stacked):
        with pytest.raises(InferenceError):
            read(batch)
