"""Anchors of detectors and what outputs say relative to them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jetface.domain import Boxes, Landmarks

_OUTWARD = np.array([-1, -1, 1, 1], np.float32)
"""Where the edges of a box lie from a point within it."""
_OUTWARD.setflags(write=False)


def anchor_centers(
    indices: NDArray[np.intp], *, width_px: int, stride_px: int, num_anchors: int
) -> NDArray[np.float32]:
    """Return where anchors lie on the canvas.

    Computed for the anchors that are asked for, which are few, instead of kept for all anchors of every canvas.

    Args:
        indices: (K,) positions in a level's output: row by row, cell by cell, anchor by anchor.
        width_px: Width of the canvas.
        stride_px: Pixels between neighboring cells of the level.
        num_anchors: Anchors in each cell.

    Returns:
        (K, 2) float32 `x, y`, canvas pixels; the top-left corner of the cell, not its middle.

    Source: `SCRFD.forward` of insightface 2.1.
    """
    centers = np.empty((len(indices), 2), np.float32)
    centers[:, 1], centers[:, 0] = np.divmod(indices // num_anchors, width_px // stride_px)
    centers *= stride_px
    return centers


def decode_boxes(centers: NDArray[np.float32], distances: NDArray[np.float32], *, stride_px: int) -> Boxes:
    """Turn distances into boxes.

    Args:
        centers: (K, 2) float32, canvas pixels.
        distances: (K, 4) float32 to the left, top, right and bottom edge, in strides.
        stride_px: Stride of the level.

    Returns:
        (K, 4) float32 canvas pixels; not clipped to the canvas, as a face may reach beyond the picture.

    Source: `distance2bbox` of insightface 2.1.
    """
    boxes: Boxes = np.concatenate([centers, centers], axis=1) + distances * (_OUTWARD * np.float32(stride_px))
    return boxes


def decode_centered_boxes(centers: NDArray[np.float32], offsets: NDArray[np.float32], *, stride_px: int) -> Boxes:
    """Turn middles and sides into boxes.

    Args:
        centers: (K, 2) float32, canvas pixels.
        offsets: (K, 4) float32: from the anchor to the middle of the box `x, y`, in strides; then the natural logarithm
            of its width and height, in strides.
        stride_px: Stride of the level.

    Returns:
        (K, 4) float32 canvas pixels, not clipped; not finite where a side is too large for float32.

    Source: `FaceDetectorYN` of OpenCV 5.
    """
    stride = np.float32(stride_px)
    middles = centers + offsets[:, :2] * stride
    with np.errstate(over="ignore", invalid="ignore"):
        halves = np.exp(offsets[:, 2:]) * (stride / 2)
        return np.concatenate([middles - halves, middles + halves], axis=1)


def decode_landmarks(centers: NDArray[np.float32], offsets: NDArray[np.float32], *, stride_px: int) -> Landmarks:
    """Turn offsets into landmarks.

    Args:
        centers: (K, 2) float32, canvas pixels.
        offsets: (K, 10) float32 `x, y` of each of the five points, in strides.
        stride_px: Stride of the level.

    Returns:
        (K, 5, 2) float32 canvas pixels.

    Source: `distance2kps` of insightface 2.1.
    """
    landmarks: Landmarks = centers[:, None, :] + offsets.reshape(-1, 5, 2) * np.float32(stride_px)
    return landmarks
