"""Anchors and decoding agree with insightface's formulas."""

from __future__ import annotations

import numpy as np
import pytest

from jetface.geometry.anchors import anchor_centers, decode_boxes, decode_landmarks


@pytest.mark.parametrize("stride_px", [8, 16, 32])
@pytest.mark.parametrize("num_anchors", [1, 2])
@pytest.mark.parametrize("canvas_hw", [(64, 64), (64, 160), (448, 640)])
def test_centers_are_insightfaces(stride_px: int, num_anchors: int, canvas_hw: tuple[int, int]) -> None:
    """The grid that `SCRFD.forward` builds by mgrid, for all anchors at once."""
    height, width = canvas_hw[0] // stride_px, canvas_hw[1] // stride_px
    rows, columns = np.mgrid[:height, :width]
    grid = np.stack([columns, rows], axis=-1).astype(np.float32)
    expected = np.stack([(grid * stride_px).reshape(-1, 2)] * num_anchors, axis=1).reshape(-1, 2)
    centers = anchor_centers(
        np.arange(height * width * num_anchors), width_px=canvas_hw[1], stride_px=stride_px, num_anchors=num_anchors
    )
    np.testing.assert_array_equal(centers, expected)
    assert centers.dtype == np.float32


def test_distances_become_edges() -> None:
    """Left and top are subtracted, right and bottom added, in strides."""
    centers = np.array([[100, 50]], np.float32)
    boxes = decode_boxes(centers, np.array([[1, 2, 3, 4]], np.float32), stride_px=8)
    np.testing.assert_array_equal(boxes, [[92, 34, 124, 82]])


def test_offsets_become_points() -> None:
    """Values for x and y alternate, relative to the center, in strides."""
    centers = np.array([[100, 50]], np.float32)
    points = decode_landmarks(centers, np.arange(10, dtype=np.float32)[None], stride_px=16)
    expected = [[100 + 16 * x, 50 + 16 * (x + 1)] for x in range(0, 10, 2)]
    np.testing.assert_array_equal(points, [expected])


def test_nothing_in_nothing_out() -> None:
    """No anchor gives no box and no landmark, with the right shapes."""
    centers = anchor_centers(np.empty(0, np.intp), width_px=64, stride_px=8, num_anchors=2)
    assert decode_boxes(centers, np.empty((0, 4), np.float32), stride_px=8).shape == (0, 4)
    assert decode_landmarks(centers, np.empty((0, 10), np.float32), stride_px=8).shape == (0, 5, 2)
