"""Pictures read with OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from jetface.domain import Image


def read_image(path: Path) -> Image:
    """Return the pixels of a picture file, BGR.

    Raises:
        ValueError: It is none that OpenCV reads.
    """
    return decode_image(path.read_bytes())


def decode_image(data: bytes) -> Image:
    """Return the pixels of a picture's bytes, BGR; raises as `read_image`."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("OpenCV does not read this picture.")
    return np.asarray(pixels, np.uint8)
