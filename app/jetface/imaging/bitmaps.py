"""BMP and GIF headers: the two formats whose size lies at a fixed place."""

from __future__ import annotations

import struct

from jetface.imaging.header import PictureHeader, damaged, truncated

BMP_MAGIC = b"BM"
GIF_MAGICS = (b"GIF87a", b"GIF89a")

_GIF_EXTENSION, _GIF_IMAGE, _GIF_TRAILER = 0x21, 0x2C, b";"
_MAX_GIF_BLOCKS = 4096
"""Comments and the like before the first frame; bounds the time a hostile file costs."""

_GIF_BYTES_PER_PIXEL = 2.2
"""Measured: OpenCV 5.0 holds 2.7 pictures at most while it decodes one, two of them the picture and its copy."""


def read_bmp_header(data: bytes) -> PictureHeader:
    """Read a BMP's size; a negative height means rows from the top, not a negative picture.

    Raises:
        ImageDecodeError: Truncated, or a header of no known length.

    Source: Microsoft Learn, BITMAPCOREHEADER and BITMAPINFOHEADER.
    """
    if len(data) < 26:
        raise truncated()
    (header_length,) = struct.unpack_from("<I", data, 14)
    if header_length == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    elif 40 <= header_length <= 124:
        width, height = struct.unpack_from("<ii", data, 18)
    else:
        raise damaged()
    if width < 0:
        raise damaged()
    return PictureHeader(format="bmp", stored_hw=(abs(height), width))


def read_gif_header(data: bytes) -> PictureHeader:
    """Read a GIF's logical screen, the canvas its first frame is drawn on.

    Raises:
        ImageDecodeError: Truncated before the end of the first frame.

    Source: GIF89a specification, section 18.
    """
    if len(data) < 13:
        raise truncated()
    width, height = struct.unpack_from("<HH", data, 6)
    first_gif_frame(data)
    return PictureHeader(format="gif", stored_hw=(height, width), side_bytes_per_pixel=_GIF_BYTES_PER_PIXEL)


def first_gif_frame(data: bytes) -> bytes:
    """Return a GIF of the first frame alone: the others cost time, and a trailer may be missing.

    Raises:
        ImageDecodeError: Truncated before the end of that frame, or damaged.

    Source: GIF89a specification, sections 15 to 27 and appendix A.
    """
    try:
        position = 13 + _palette_bytes(data[10])
        for _ in range(_MAX_GIF_BLOCKS):
            kind = data[position]
            if kind == _GIF_IMAGE:
                end = _end_of_gif_blocks(data, position + 11 + _palette_bytes(data[position + 9]))
                return data if data[end : end + 1] == _GIF_TRAILER else data[:end] + _GIF_TRAILER
            if kind != _GIF_EXTENSION:
                break
            position = _end_of_gif_blocks(data, position + 2)
    except IndexError:
        raise truncated() from None
    raise damaged()


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _end_of_gif_blocks(data: bytes, position: int) -> int:
    """Return where a chain of blocks ends, each with its length before it, the last of length 0."""
    while data[position]:
        position += 1 + data[position]
    return position + 1
