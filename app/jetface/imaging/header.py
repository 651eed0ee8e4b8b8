"""What is known of a picture before a pixel is decoded, and how it is turned upright."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np

from jetface.domain import Image
from jetface.errors import ImageDecodeError

PictureFormat: TypeAlias = Literal["jpeg", "png", "webp", "bmp", "gif", "heic", "avif", "tiff"]
"""What can be read; TIFF only where a setting says so. What else OpenCV could read has a worse record of holes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureHeader:
    """What the header of a picture file claims, and what decoding it will cost."""

    format: PictureFormat
    stored_hw: tuple[int, int]
    """Height and width as stored, pixels; both at least 1."""
    orientation: int = 1
    """EXIF orientation, 1 to 8."""
    num_channels: int = 3
    """Colour channels as stored, where the decoder's choice hangs on it: 4 is CMYK in a JPEG."""
    side_bytes_per_pixel: float = 0.0
    """Memory the decoder needs beside its output, for each stored pixel, however small the output is."""

    @property
    def source_hw(self) -> tuple[int, int]:
        """Height and width once the orientation is applied, pixels."""
        height, width = self.stored_hw
        return (width, height) if self.is_transposed else (height, width)

    @property
    def is_transposed(self) -> bool:
        """Whether the orientation swaps rows and columns."""
        return self.orientation >= 5

    @property
    def num_pixels(self) -> int:
        """Pixels of the picture; Python integers do not overflow."""
        return self.stored_hw[0] * self.stored_hw[1]


def truncated() -> ImageDecodeError:
    """Return the error of a picture whose end is missing."""
    return ImageDecodeError("The picture is truncated.")


def damaged() -> ImageDecodeError:
    """Return the error of a picture that breaks its format's rules."""
    return ImageDecodeError("The picture is damaged.")


EXIF_MARK = b"Exif\0\0"
"""Begins EXIF data in a JPEG's APP1 segment, and, against the specification, in some WebP files."""

_ORIENTATION_TAG = 0x0112
_LETTERS = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i"}
"""By kind. The specification wants a SHORT; some write a LONG, a BYTE or a signed one, and viewers take them."""
_MAX_ENTRIES = 512
"""A first directory holds a few dozen entries; one that claims 65,535 shall not cost their time."""


def read_orientation(exif: bytes) -> int:
    r"""Find the orientation in EXIF data.

    Args:
        exif: A TIFF structure (`II*\0` or `MM\0*` first), with or without the mark `Exif\0\0` before it.

    Returns:
        1 to 8; 1 (upright) for anything malformed: a picture is not refused for its metadata.

    Source: TIFF 6.0, section 2; CIPA DC-008 (EXIF 2.32), 4.6.4.
    """
    tiff = exif.removeprefix(EXIF_MARK)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(f"{order}I", tiff, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", tiff, offset)
        for index in range(min(num_entries, _MAX_ENTRIES)):
            tag, kind, count = struct.unpack_from(f"{order}HHI", tiff, offset + 2 + 12 * index)
            if tag == _ORIENTATION_TAG and kind in _LETTERS and count == 1:
                (value,) = struct.unpack_from(f"{order}{_LETTERS[kind]}", tiff, offset + 10 + 12 * index)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def turn_upright(image: Image, orientation: int) -> Image:
    """Apply an EXIF orientation.

    Args:
        image: (H, W, 3) uint8 as stored.
        orientation: 1 to 8.

    Returns:
        The upright picture, C-contiguous: (W, H, 3) for 5 to 8, else (H, W, 3). `image` itself for 1; for 2 to 4
        `image` is overwritten, so that no second picture is held.

    Source: CIPA DC-008 (EXIF 2.32), 4.6.4: the 0th row and column of 6 are the visual right and top.
    """
    if orientation in _FLIP_BY_ORIENTATION:
        return np.asarray(cv2.flip(image, _FLIP_BY_ORIENTATION[orientation], dst=image), np.uint8)
    if orientation == 5:
        return np.asarray(cv2.transpose(image), np.uint8)
    if orientation == 7:
        transposed = cv2.transpose(image)
        return np.asarray(cv2.flip(transposed, -1, dst=transposed), np.uint8)
    if orientation in _TURN_BY_ORIENTATION:
        return np.asarray(cv2.rotate(image, _TURN_BY_ORIENTATION[orientation]), np.uint8)
    return image


_FLIP_BY_ORIENTATION = {2: 1, 3: -1, 4: 0}
_TURN_BY_ORIENTATION = {6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
