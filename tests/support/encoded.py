"""Picture files made in code: every format and every oddity the decoders must agree on."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Sequence

import cv2
import numpy as np
import PIL.Image

from jetface.domain import Image

CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwADAgIDAgIDAwMDBAMDBAUIBQUEBAUKBwcGCAwKDAwLCgsLDQ4SEA0OEQ4LCxAWEBETFBUVFQwPFxgWFBgS"
    "FBUU/8AAFAgACAAQBEMRAE0RAFkRAEsRAP/EAB8AAAEFAQEBAQEBAAAAAAAAAAABAgMEBQYHCAkKC//EALUQAAIBAwMCBAMFBQQEAAABfQECAwAE"
    "EQUSITFBBhNRYQcicRQygZGhCCNCscEVUtHwJDNicoIJChYXGBkaJSYnKCkqNDU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6"
    "g4SFhoeIiYqSk5SVlpeYmZqio6Slpqeoqaqys7S1tre4ubrCw8TFxsfIycrS09TV1tfY2drh4uPk5ebn6Onq8fLz9PX29/j5+v/aAA4EQwBNAFkA"
    "SwAAPwD9OK+PK/QOvuiiiiiv/9k="
)
"""16x8, ink (10, 200, 30, 40) of 255: about BGR (190, 48, 207)."""

ANIMATED_WEBP = base64.b64decode(
    "UklGRogAAABXRUJQVlA4WAoAAAACAAAACwAABwAAQU5JTQYAAAAAAAAAAABBTk1GKgAAAAAAAAAAAAsAAAcAAAAAAAJWUDhMEQAAAC8LwAEAB1CZylSm"
    "/4GI6H8AAEFOTUYqAAAAAAAAAAAACwAABwAAAAAAAFZQOEwRAAAALwvAAQAHUOQiF7n/gYjofwAA"
)
"""12x8, two frames: all 50, then all 200."""


def smooth_image(height: int, width: int) -> Image:
    """Return a picture that compresses well and whose corners all differ."""
    rows, columns = np.mgrid[0:height, 0:width]
    blue = 30 + 200 * columns / max(1, width - 1)
    green = 20 + 200 * rows / max(1, height - 1)
    red = 128 + 100 * np.sin(columns / 9) * np.cos(rows / 7)
    return np.ascontiguousarray(np.stack([blue, green, red], axis=-1), np.uint8)


def encode(extension: str, image: np.ndarray, parameters: Sequence[int] = ()) -> bytes:
    """Encode with OpenCV, GIF with Pillow, as OpenCV 4.11 writes none; `extension` is `.jpg`, `.png` and so on."""
    if extension == ".gif":
        file = io.BytesIO()
        PIL.Image.fromarray(image[:, :, ::-1]).save(file, "GIF")
        return file.getvalue()
    is_encoded, data = cv2.imencode(extension, image, list(parameters))
    if not is_encoded:
        raise ValueError(extension)
    return bytes(data.tobytes())


def exif(orientation: int, order: str = "<", *, tag: int = 0x0112, kind: int = 3, count: int = 1) -> bytes:
    """Return a TIFF structure that says an orientation, after another entry; `order` is `<` or `>`."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    value = struct.pack(order + {1: "B3x", 4: "I", 9: "i"}.get(kind, "H2x"), orientation)
    entries = struct.pack(f"{order}HHIHH", 0x0100, 3, 1, 640, 0) + struct.pack(f"{order}HHI", tag, kind, count) + value
    return mark + struct.pack(f"{order}IH", 8, 2) + entries + struct.pack(f"{order}I", 0)


def segment(marker: int, payload: bytes) -> bytes:
    """Return a JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def jpeg_with_exif(jpeg: bytes, tiff: bytes) -> bytes:
    """Put an APP1 segment behind the start of a JPEG."""
    return jpeg[:2] + segment(0xE1, b"Exif\0\0" + tiff) + jpeg[2:]


def chunk(kind: bytes, payload: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png_with_exif(png: bytes, tiff: bytes, *, at_end: bool = False) -> bytes:
    """Put an eXIf chunk behind the header of a PNG, or before its end."""
    where = len(png) - 12 if at_end else 33
    return png[:where] + chunk(b"eXIf", tiff) + png[where:]


def webp_with_exif(webp: bytes, tiff: bytes, image_hw: tuple[int, int]) -> bytes:
    """Make an extended WebP of a simple one."""
    height, width = image_hw
    flags = 0x08 | (0x10 if webp[12:16] == b"VP8L" else 0)
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + canvas) + webp[12:] + riff_chunk(b"EXIF", tiff)
    return riff(chunks)


def riff_chunk(kind: bytes, payload: bytes) -> bytes:
    """Return a chunk of a WebP."""
    return kind + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) & 1)


def riff(chunks: bytes) -> bytes:
    """Return a WebP of chunks."""
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row of each pass, and steps between them: https://www.w3.org/TR/png-3/#8Interlace"""


def png_bomb(side_px: int, *, is_interlaced: bool = False) -> bytes:
    """Return a PNG of one colour: three bytes for each pixel claimed, hardly any in the file."""
    packer = zlib.compressobj(9)
    packed = []
    for column, row, step_x, step_y in _ADAM7 if is_interlaced else ((0, 0, 1, 1),):
        line = bytes(1 + 3 * len(range(column, side_px, step_x)))
        packed += [packer.compress(line) for _ in range(row, side_px, step_y)]
    packed.append(packer.flush())
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, is_interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"".join(packed)) + chunk(b"IEND", b"")


def gif_of(indices: np.ndarray, palette_bgr: np.ndarray) -> bytes:
    """Return a GIF of at most four colours, every pixel as it is: OpenCV's encoder would dither.

    Before every second pixel the code table is cleared, so that codes keep their three bits.
    """
    height, width = indices.shape
    bits = "".join(
        ("001" if position % 2 == 0 else "") + f"{int(index):03b}"[::-1] for position, index in enumerate(indices.flat)
    )
    bits += "101"  # end of information, 5, least bit first like all codes; 4 clears
    packed = bytes(int(bits[start : start + 8][::-1], 2) for start in range(0, len(bits), 8))
    blocks = b"".join(
        bytes([len(packed[start : start + 255])]) + packed[start : start + 255] for start in range(0, len(packed), 255)
    )
    palette = np.zeros((4, 3), np.uint8)
    palette[: len(palette_bgr)] = palette_bgr[:, ::-1]
    screen = struct.pack("<HHBBB", width, height, 0x81, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2"
    return b"GIF89a" + screen + palette.tobytes() + frame + blocks + b"\0;"


def core_bmp(image: Image) -> bytes:
    """Return a BMP with the twelve-byte header of OS/2."""
    height, width = image.shape[:2]
    padding = bytes(-3 * width % 4)
    rows = b"".join(row.tobytes() + padding for row in image[::-1])
    return _bmp(struct.pack("<IHHHH", 12, width, height, 1, 24), rows)


def top_down_bmp(image: Image) -> bytes:
    """Return a BMP whose rows run from the top, which its header says by a negative height."""
    height, width = image.shape[:2]
    padding = bytes(-3 * width % 4)
    rows = b"".join(row.tobytes() + padding for row in image)
    return _bmp(struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, 0, len(rows), 2835, 2835, 0, 0), rows)


def _bmp(header: bytes, rows: bytes) -> bytes:
    offset = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + rows
