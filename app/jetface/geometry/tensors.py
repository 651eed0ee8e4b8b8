"""Pictures to blobs, and outputs to unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from jetface.domain import Blob


def to_blob(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    *,
    mean: float,
    std: float,
    channel_order: Literal["rgb", "bgr"],
) -> Blob:
    """Stack pictures into one normalised batch.

    Args:
        images: N >= 1 pictures (H, W, 3) uint8 BGR of one size, or one array (N, H, W, 3).
        mean: Subtracted from every pixel, 0..255.
        std: What the difference is divided by.
        channel_order: Order the model wants.

    Returns:
        (N, 3, H, W) float32, C-contiguous, `(pixel - mean) / std`.

    Raises:
        ValueError: No picture, or pictures of different sizes.

    Equal to `cv2.dnn.blobFromImages` within float32 rounding; one pass per plane straight into the batch makes it
    14 times as fast for a 640x640 canvas (0.24 against 3.35 ms), as that function converts, subtracts, swaps and
    copies in turn.
    """
    if len(images) == 0:
        raise ValueError("a batch needs at least one picture")
    height, width = images[0].shape[:2]
    blob = np.empty((len(images), 3, height, width), np.float32)
    for planes, image in zip(blob, images, strict=True):
        if image.shape != (height, width, 3):
            raise ValueError(f"a picture of {image.shape} in a batch of {(height, width, 3)}")
        for target, plane in zip(planes if channel_order == "bgr" else planes[::-1], cv2.split(image), strict=True):
            cv2.addWeighted(plane, 1.0 / std, plane, 0.0, -mean / std, dst=target, dtype=cv2.CV_32F)
    return blob


def normalize_rows(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bring rows to unit length.

    Args:
        rows: (N, L) float32.

    Returns:
        (N, L) float32 unit rows and (N,) float32 their former lengths. A row without direction (all zero, or with
        a value that is not finite) stays as it is; its length, 0 or not finite, tells.
    """
    # In float64, so that large values cannot overflow on the way.
    norms = np.sqrt(np.einsum("nl,nl->n", rows, rows, dtype=np.float64))
    has_direction = np.isfinite(norms) & (norms > 0)
    unit = rows / np.where(has_direction, norms, 1.0)[:, None]
    return unit.astype(np.float32), norms.astype(np.float32)


def softmax_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn logits into probabilities.

    Args:
        rows: (N, L) float32, finite, L at least 1; large ones do not overflow.

    Returns:
        (N, L) float32; each row sums up to 1.
    """
    weights = np.exp(rows - rows.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = weights / weights.sum(axis=1, keepdims=True)
    return probabilities
