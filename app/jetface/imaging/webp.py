"""WebP headers: size and orientation."""

from __future__ import annotations

import struct

from jetface.imaging.header import PictureHeader, damaged, truncated
from jetface.imaging.orientation import read_orientation

MAX_CHUNKS = 4096
"""A still picture has a handful; an animation two a frame. Bounds the time a hostile file costs."""

_LOSSLESS_BYTES_PER_PIXEL = 4.0
"""libwebp unpacks a lossless picture to ARGB before it converts to what was asked for."""

_ANIMATED_SIDE_BYTES = 6.0
"""Measured: OpenCV 5.0 holds up to 11.2 bytes a pixel of an animation, six of them the picture and its copy."""


def is_webp(data: bytes) -> bool:
    """Whether the first bytes say WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_header(data: bytes) -> PictureHeader:
    """Read a WebP's chunks: simple, lossless or extended.

    Raises:
        ImageDecodeError: Truncated or damaged.

    Source: RFC 9649, sections 2 and 3; RFC 6386, section 9.1 (VP8 frame header).
    """
    if len(data) < 20:
        raise truncated()
    (riff_length,) = struct.unpack_from("<I", data, 4)
    end = 8 + riff_length
    if end > len(data):
        raise truncated()
    kind = data[12:16]
    stored_hw = _stored_hw(kind, data[20:30])
    orientation = 1
    side_bytes_per_pixel = _LOSSLESS_BYTES_PER_PIXEL if kind == b"VP8L" else 0.0
    if kind == b"VP8X":
        orientation, kinds = _read_extended(data, end)
        if kinds & {b"VP8L", b"ALPH"}:
            side_bytes_per_pixel = _LOSSLESS_BYTES_PER_PIXEL
        if b"ANMF" in kinds:
            side_bytes_per_pixel = _ANIMATED_SIDE_BYTES
    return PictureHeader(
        format="webp", stored_hw=stored_hw, orientation=orientation, side_bytes_per_pixel=side_bytes_per_pixel
    )


def _stored_hw(kind: bytes, payload: bytes) -> tuple[int, int]:
    """Read the size from the first 10 bytes of the first chunk's payload."""
    if kind == b"VP8 " and len(payload) == 10 and payload[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", payload, 6)
        return height & 0x3FFF, width & 0x3FFF  # the two high bits are a hint for scaling
    if kind == b"VP8L" and len(payload) >= 5 and payload[0] == 0x2F:
        (bits,) = struct.unpack_from("<I", payload, 1)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8X" and len(payload) == 10:
        return int.from_bytes(payload[7:10], "little") + 1, int.from_bytes(payload[4:7], "little") + 1
    raise damaged()


def _read_extended(data: bytes, end: int) -> tuple[int, set[bytes]]:
    """Return the orientation, and the kinds of chunks there are."""
    orientation, kinds = 1, set[bytes]()
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > end:
            return orientation, kinds
        kind, length = struct.unpack_from("<4sI", data, position)
        payload = position + 8
        if payload + length > end:
            raise truncated()
        if kind == b"EXIF":
            orientation = read_orientation(data[payload : payload + length])
        kinds.add(kind)
        position = payload + length + (length & 1)
    raise damaged()
