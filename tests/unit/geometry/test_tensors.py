"""Blobs are OpenCV's, faster; unit vectors are of unit length."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jetface.geometry.tensors import normalize_rows, to_blob


@pytest.mark.parametrize(("mean", "std"), [(127.5, 128.0), (127.5, 127.5), (0.0, 1.0)])
@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 112, 112)])
def test_blobs_are_opencvs(
    mean: float, std: float, channel_order: Literal["rgb", "bgr"], shape: tuple[int, int, int]
) -> None:
    """Every value agrees with `blobFromImages` within float32 rounding."""
    images = list(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    expected = cv2.dnn.blobFromImages(
        images, 1 / std, (shape[2], shape[1]), (mean, mean, mean), swapRB=channel_order == "rgb"
    )
    blob = to_blob(images, mean=mean, std=std, channel_order=channel_order)
    np.testing.assert_allclose(blob, expected, atol=2e-6 * max(1.0, 128 / std), rtol=1e-6)
    assert blob.dtype == np.float32
    assert blob.flags.c_contiguous


def test_views_and_arrays_are_taken() -> None:
    """A strided view and a 4-D array give the same blob as lists of copies."""
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)
    views = [image[4:36, 9:41] for image in images]
    expected = to_blob([view.copy() for view in views], mean=0, std=1, channel_order="rgb")
    np.testing.assert_array_equal(to_blob(views, mean=0, std=1, channel_order="rgb"), expected)
    np.testing.assert_array_equal(to_blob(images[:, 4:36, 9:41], mean=0, std=1, channel_order="rgb"), expected)


@pytest.mark.parametrize("shapes", [[], [(4, 4, 3), (4, 5, 3)], [(4, 4, 1)]], ids=["none", "different", "one-channel"])
def test_what_is_no_batch_is_refused(shapes: list[tuple[int, ...]]) -> None:
    """Sizes must agree, and there must be a picture."""
    with pytest.raises(ValueError, match="batch"):
        to_blob([np.zeros(shape, np.uint8) for shape in shapes], mean=0, std=1, channel_order="rgb")


@given(
    rows=npst.arrays(
        np.float32,
        st.tuples(st.integers(0, 6), st.integers(1, 20)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_rows_get_unit_length(rows: np.ndarray) -> None:
    """Length 1 whatever the size of the values; a row of zeros stays one and says so by its norm."""
    unit, norms = normalize_rows(rows)
    assert unit.dtype == norms.dtype == np.float32
    lengths = np.linalg.norm(unit.astype(np.float64), axis=1)
    exact = np.linalg.norm(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths[exact > 1e-30], 1, atol=1e-5)
    np.testing.assert_allclose(norms, exact, rtol=1e-6, atol=1e-40)
    assert not unit[exact == 0].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_say_so(value: float) -> None:
    """Their norm is not finite; other rows are normalised all the same."""
    unit, norms = normalize_rows(np.array([[1, value], [3, 4]], np.float32))
    assert not np.isfinite(norms[0])
    np.testing.assert_allclose(unit[1], [0.6, 0.8])
    assert norms[1] == 5
