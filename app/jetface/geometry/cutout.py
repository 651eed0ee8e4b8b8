"""A box to a cut-out of the picture around it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from jetface.domain import Image


def cut_out(image: Image, box: NDArray[np.float32], *, enlargement: float, output_hw: tuple[int, int]) -> Image:
    """Cut out an enlarged box, upright and unpadded, and resize it.

    The window keeps the box's shape and centre. Where it would leave the picture it is moved inside; where it is larger
    than the picture it shrinks to what fits.

    Args:
        image: (H, W, 3) uint8 BGR, any size from 1x1.
        box: (4,) float32 `x1, y1, x2, y2`, its pixels; parts of it may lie outside.
        enlargement: How many times as wide and high as the box the window is.
        output_hw: Height and width of the cut-out; the window is stretched to it.

    Returns:
        (*output_hw, 3) uint8 BGR, bilinear.

    Source: `AffineCrop` of minivision-ai/Silent-Face-Anti-Spoofing at 11730bcc, src/generate_patches.py.
    """
    sides = np.array([image.shape[1], image.shape[0]], np.float64)
    low, high = box[:2].astype(np.float64), box[2:].astype(np.float64)
    box_sides = np.maximum(high - low, 1e-3)
    window = box_sides * min(enlargement, float(((sides - 1) / box_sides).min()))
    left, top = np.clip((low + high - window) / 2, 0, sides - window)
    columns = _span(left, window[0], image.shape[1])
    rows = _span(top, window[1], image.shape[0])
    resized = cv2.resize(image[rows, columns], output_hw[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _span(start: float, length: float, limit: int) -> slice:
    """Return the whole pixels of a stretch, at least one of the `limit` there are."""
    first = min(int(start), limit - 1)
    return slice(first, max(int(start + length), first + 1))
