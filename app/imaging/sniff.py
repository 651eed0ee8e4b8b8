"""What a file is, from its first bytes, and how large, before any pixel is decoded."""

from __future__ import annotations

from app.errors import ImageDecodeError, ImageTooLargeError
from app.imaging import bitmaps, jpeg, png, webp
from app.imaging.header import ACCEPTED, PictureHeader

_QUICK_BYTES = 2**20
"""A progressive JPEG of this length takes 1.5 ms: its scans are counted."""


def sniff(data: bytes, *, max_pixels: int) -> PictureHeader:
    """Read the header of a picture file in time bounded by its length.

    Names, extensions and content types are ignored: only the bytes decide.

    Args:
        data: The whole file.
        max_pixels: Most pixels the header may claim.

    Returns:
        The header; its size is at least 1x1 and at most `max_pixels`.

    Raises:
        ImageDecodeError: Empty, of no accepted format, truncated, damaged or without a pixel.
        ImageTooLargeError: More pixels than `max_pixels`.
    """
    header = _read_header(data)
    height, width = header.stored_hw
    if not height or not width:
        raise ImageDecodeError("The picture has no pixels.")
    if header.num_pixels > max_pixels:
        raise ImageTooLargeError(
            f"The picture is {width}x{height}; at most {max_pixels} pixels are taken.",
            width=width,
            height=height,
            max_pixels=max_pixels,
        )
    return header


def has_quick_header(data: bytes) -> bool:
    """Whether `sniff` takes less time than a visit to another thread (0.2 ms): 8 us for a usual JPEG, 2 ms at worst."""
    return data.startswith(jpeg.MAGIC) and len(data) <= _QUICK_BYTES


def _read_header(data: bytes) -> PictureHeader:
    if not data:
        raise ImageDecodeError("The picture is empty.")
    if data.startswith(jpeg.MAGIC):
        return jpeg.read_header(data)
    if data.startswith(png.MAGIC):
        return png.read_header(data)
    if webp.is_webp(data):
        return webp.read_header(data)
    if data.startswith(bitmaps.GIF_MAGICS):
        return bitmaps.read_gif_header(data)
    if data.startswith(bitmaps.BMP_MAGIC):
        return bitmaps.read_bmp_header(data)
    raise ImageDecodeError(f"This is not a picture of an accepted format: {ACCEPTED} are.")
