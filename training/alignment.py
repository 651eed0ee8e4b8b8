"""From five landmarks to the place of a 112x112 crop, as the arcface family expects it."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

CROP_PX: Final = 112

TEMPLATE: Final = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""(5, 2) x, y of the landmarks in the crop. Source: InsightFace, `face_align.py`, `arcface_dst`."""


def similarity(source: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fit rotation, uniform scale and shift that carry `source` to `target` with the least squared error.

    Args:
        source: (5, 2) x, y.
        target: (5, 2) x, y.

    Returns:
        (2, 3) float32 matrix M: `target ~ M[:, :2] @ source + M[:, 2]`; never a reflection.

    Source: Umeyama 1991, written for two dimensions, where a rotation with scale is the matrix [[a, -b], [b, a]] and
    the fit is linear in a and b.
    """
    s, t = source - source.mean(0), target - target.mean(0)
    power = float((s * s).sum())
    a = float((s * t).sum()) / power
    b = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / power
    linear = np.array([[a, -b], [b, a]], np.float32)
    shift = target.mean(0) - linear @ source.mean(0)
    return np.concatenate([linear, shift[:, None]], 1).astype(np.float32)
