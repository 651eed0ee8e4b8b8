"""PNG headers: size and orientation; and whether the file is whole, which libpng would tell on stderr only."""

from __future__ import annotations

import struct
import zlib

from jetface.imaging.header import PictureHeader, damaged, truncated
from jetface.imaging.orientation import read_orientation

MAGIC = b"\x89PNG\r\n\x1a\n"

MAX_CHUNKS = 65_536
"""64 MiB in libpng's own chunks of 8 kB are 8192; bounds the time a hostile file costs."""

_ANIMATED_SIDE_BYTES = 6.5
"""Measured: OpenCV 5.0 holds up to 12.1 bytes a pixel of an animation, six of them the picture and its copy."""


def read_header(data: bytes) -> PictureHeader:
    """Walk a PNG from chunk to chunk, up to its end.

    Raises:
        ImageDecodeError: Truncated, the first chunk is not the header, or a chunk fails its checksum.

    Source: PNG specification, third edition, sections 5 and 11.
    """
    stored_hw: tuple[int, int] | None = None
    orientation = 1
    is_animated = False
    position = len(MAGIC)
    for _ in range(MAX_CHUNKS):
        if position + 12 > len(data):
            raise truncated()
        length, kind = struct.unpack_from(">I4s", data, position)
        payload, end = position + 8, position + 12 + length
        if end > len(data):
            raise truncated()
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != _uint32(data, end - 4):
            raise damaged()
        if stored_hw is None:
            if kind != b"IHDR" or length != 13:
                raise damaged()
            width, height = struct.unpack_from(">II", data, payload)
            stored_hw = (height, width)
        elif kind == b"eXIf":
            orientation = read_orientation(data[payload : end - 4])
        elif kind == b"acTL":
            is_animated = True
        elif kind == b"IEND":
            side = _ANIMATED_SIDE_BYTES if is_animated else 0.0
            return PictureHeader(format="png", stored_hw=stored_hw, orientation=orientation, side_bytes_per_pixel=side)
        position = end
    raise damaged()


def _uint32(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 4], "big")
