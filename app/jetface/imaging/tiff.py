"""TIFF headers: size and orientation of the first picture. Read only where `ACCEPT_TIFF` is on."""

from __future__ import annotations

import struct

from jetface.errors import ImageDecodeError
from jetface.imaging.header import PictureHeader, damaged, truncated
from jetface.imaging.orientation import read_orientation

MAGICS = {b"II*\0": "<", b"MM\0*": ">"}
"""Of the classic format and its byte orders; BigTIFF has another."""

_WIDTH, _HEIGHT, _BITS, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 258, 277, 322, 323
_LETTERS = {1: "B", 3: "H", 4: "I"}
_MAX_ENTRIES = 512
_MOST_BITS = 64
_UNPACKED_SIDE_BYTES = 4.5
"""Measured: OpenCV 5.0 holds up to 10.1 bytes a pixel, six of them the picture and its copy."""


def read_header(data: bytes) -> PictureHeader:
    """Read the first directory of a TIFF.

    Raises:
        ImageDecodeError: Truncated or damaged, or a tile is larger than the picture.

    Source: TIFF 6.0, sections 2, 8 and 15.
    """
    order = MAGICS[data[:4]]
    try:
        (offset,) = struct.unpack_from(f"{order}I", data, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", data, offset)
        tags: dict[int, int] = {}
        for index in range(min(num_entries, _MAX_ENTRIES)):
            entry = offset + 2 + 12 * index
            tag, kind, count = struct.unpack_from(f"{order}HHI", data, entry)
            letter = _LETTERS.get(kind)
            if letter is not None and count:
                where = entry + 8
                if count * struct.calcsize(letter) > 4:
                    (where,) = struct.unpack_from(f"{order}I", data, where)
                (tags[tag],) = struct.unpack_from(f"{order}{letter}", data, where)
    except struct.error:
        raise truncated() from None
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise damaged()
    height, width = tags[_HEIGHT], tags[_WIDTH]
    bits = tags.get(_BITS, 1) * tags.get(_SAMPLES, 1)
    if bits > _MOST_BITS:
        raise ImageDecodeError("The picture is a kind of TIFF that is not supported: at most 64 bits a pixel are read.")
    # A decoder makes room for whole tiles, whatever the picture's size: TIFF pads them to it, and no further.
    if tags.get(_TILE_WIDTH, 0) > width + 1024 or tags.get(_TILE_HEIGHT, 0) > height + 1024:
        raise damaged()
    return PictureHeader(
        format="tiff",
        stored_hw=(height, width),
        orientation=read_orientation(data),
        side_bytes_per_pixel=max(_UNPACKED_SIDE_BYTES, bits / 8),
    )
