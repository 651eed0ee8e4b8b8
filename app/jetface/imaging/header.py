"""What is known of a picture before a pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

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
