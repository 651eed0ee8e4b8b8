"""Five landmarks to an aligned crop."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from app.domain import Crop, Image, Landmarks

CROP_SIDE_PX = 112
"""Side of an aligned crop."""

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""(5, 2) where landmarks come to lie in a crop. Source: `arcface_dst`, insightface `utils/face_align.py`."""
TEMPLATE.setflags(write=False)

WARP_LIMIT_PX = 32766
"""`cv2.warpAffine` refuses sources with a longer side."""

_MARGIN_PX = 2
"""Source pixels kept around what a crop covers, so that interpolation at its edge sees its true neighbours."""


def estimate_similarity(source: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Find the rotation, uniform scale and shift that bring `source` nearest to `target` in the least squares sense.

    Args:
        source: (K, 2) points, K >= 2.
        target: (K, 2) points.

    Returns:
        (2, 3) float64 matrix of `cv2.warpAffine`'s kind; None where `source` decides nothing: its points all
        coincide, one is not finite, or they mirror `target` so that no turn fits better than another.

    Source: Umeyama 1991, in closed form: in the plane, without reflection, the problem is linear in `scale * cos` and
    `scale * sin`, so no singular value decomposition is needed.
    """
    source_mean = source.mean(axis=0, dtype=np.float64)
    target_mean = target.mean(axis=0, dtype=np.float64)
    x, y = (source - source_mean).T
    u, v = (target - target_mean).T
    spread = float(x @ x + y @ y)
    # Points within a millionth of their distance from the origin coincide as far as float32 can tell.
    if not np.isfinite(spread) or spread <= 1e-12 * max(1.0, float(source_mean @ source_mean)):
        return None
    cosine = float(x @ u + y @ v) / spread
    sine = float(x @ v - y @ u) / spread
    linear = np.array([[cosine, -sine], [sine, cosine]])
    if cosine == 0.0 and sine == 0.0:
        return None
    return np.column_stack([linear, target_mean - linear @ source_mean])


def crop_scales(landmarks: Landmarks) -> NDArray[np.float32]:
    """Return how many crop pixels a picture's pixel becomes, face by face: above 1, a crop is an enlargement.

    Args:
        landmarks: (N, 5, 2) float32.

    Returns:
        (N,) float32, positive; 1 where the landmarks decide nothing.
    """
    matrices = [estimate_similarity(points, TEMPLATE) for points in landmarks]
    scales = [1.0 if matrix is None else float(np.hypot(matrix[0, 0], matrix[1, 0])) for matrix in matrices]
    return np.array(scales, np.float32)


def align(image: Image, landmarks: NDArray[np.float32]) -> Crop:
    """Cut out one face, turned and resized so that its landmarks lie on the template.

    Args:
        image: (H, W, 3) uint8 BGR, full resolution.
        landmarks: (5, 2) float32, its pixels; they may lie outside of it.

    Returns:
        (112, 112, 3) uint8 BGR, bilinear, black beyond the picture; all black where the landmarks decide nothing.

    Source: `norm_crop` of insightface 2.1. Only the part of the picture the crop covers is handed to OpenCV, which
    refuses pictures wider than 32766 px.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        matrix = estimate_similarity(landmarks, TEMPLATE)
        region = None if matrix is None else _covered_region(matrix, image.shape[0], image.shape[1])
    if matrix is None or region is None:
        return np.zeros((CROP_SIDE_PX, CROP_SIDE_PX, 3), np.uint8)
    top, bottom, left, right = region
    step = -(-max(bottom - top, right - left) // WARP_LIMIT_PX)
    part = image[top:bottom:step, left:right:step]
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ np.array([left, top], np.float64)
    moved[:, :2] *= step
    crop = cv2.warpAffine(part, moved, (CROP_SIDE_PX, CROP_SIDE_PX), flags=cv2.INTER_LINEAR, borderValue=0.0)
    return np.asarray(crop, np.uint8)


def _covered_region(matrix: NDArray[np.float64], height: int, width: int) -> tuple[int, int, int, int] | None:
    """Return `top, bottom, left, right` of the part of a picture that a crop shows; None when it shows none of it."""
    corners = np.array([[0, 0], [CROP_SIDE_PX, 0], [0, CROP_SIDE_PX], [CROP_SIDE_PX, CROP_SIDE_PX]], np.float64)
    # The inverse of a similarity is its transpose over its squared scale.
    linear = matrix[:, :2]
    in_image = (corners - matrix[:, 2]) @ linear / (linear[0, 0] ** 2 + linear[1, 0] ** 2)
    low, high = in_image.min(axis=0) - _MARGIN_PX, in_image.max(axis=0) + _MARGIN_PX
    left, right = np.clip([np.floor(low[0]), np.ceil(high[0])], 0, width).astype(int).tolist()
    top, bottom = np.clip([np.floor(low[1]), np.ceil(high[1])], 0, height).astype(int).tolist()
    return None if top >= bottom or left >= right else (top, bottom, left, right)
