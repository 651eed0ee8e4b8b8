"""Pictures that are almost right: whole ones of every format, and ways to break them."""

from __future__ import annotations

import struct
import zlib
from random import Random

import cv2
import numpy as np

from tests.support.encoded import (
    ANIMATED_WEBP,
    CMYK_JPEG,
    core_bmp,
    encode,
    exif,
    gif_of,
    jpeg_with_exif,
    png_with_exif,
    smooth_image,
    top_down_bmp,
    webp_with_exif,
)

SIDES_PX = (0, 1, 2, 7, 16, 255, 1000, 2000, 10_000, 16_383, 30_000, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
"""What headers claim: nothing, little, what is just taken, and the ends of every field."""

_MOST_REPEATED_BYTES = 2**17


def whole_pictures(height_px: int = 96, width_px: int = 128) -> dict[str, bytes]:
    """Return a picture file of every kind that is read, by what it is."""
    image = smooth_image(height_px, width_px)
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    jpeg, png = encode(".jpg", image), encode(".png", image)
    lossy, lossless = (encode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality]) for quality in (80, 101))
    return {
        "JPEG": jpeg,
        "JPEG, progressive": encode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        "JPEG, restarts": encode(".jpg", image, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
        "JPEG, gray": encode(".jpg", gray),
        "JPEG, ink": CMYK_JPEG,
        "JPEG, turned": jpeg_with_exif(jpeg, exif(6)),
        "PNG": png,
        "PNG, 16 bits": encode(".png", image.astype(np.uint16) * 257),
        "PNG, see-through": encode(".png", np.dstack([image, gray])),
        "PNG, turned": png_with_exif(png, exif(8, ">")),
        "WebP": lossy,
        "WebP, lossless": lossless,
        "WebP, turned": webp_with_exif(lossy, exif(3), (height_px, width_px)),
        "WebP, animated": ANIMATED_WEBP,
        "BMP": encode(".bmp", image),
        "BMP, of OS/2": core_bmp(image),
        "BMP, from the top": top_down_bmp(image),
        "GIF": gif_of(gray // 64, np.array([[0] * 3, [80] * 3, [160] * 3, [255] * 3], np.uint8)),
    }


def mutate(picture: bytes, random: Random) -> bytes:
    """Break a picture in one to four ways; one of them may be that its header claims another size."""
    data = bytearray(picture)
    if random.random() < 0.4:
        claim_size(data, random.choice(SIDES_PX), random.choice(SIDES_PX))
    for _ in range(random.randint(0 if data != picture else 1, 3)):
        random.choice((_flip, _cut, _overwrite, _repeat_bytes, _repeat_chunk, _drop, _append))(data, random)
    if random.random() < 0.7:
        _sign_chunks(data)
    return bytes(data)


def claim_size(data: bytearray, height_px: int, width_px: int) -> None:
    """Let a header say another size, as far as its fields reach; a checksum over it is made right."""
    if data[:4] == b"\x89PNG":
        struct.pack_into(">II", data, 16, width_px, height_px)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    elif data[:2] == b"BM":
        form = "<HH" if data[14] == 12 else "<II"
        _pack(form, data, 18, width_px, height_px)
    elif data[:3] == b"GIF":
        _pack("<HH", data, 6, width_px, height_px)
    elif data[:4] == b"RIFF" and data[12:16] == b"VP8 ":
        _pack("<HH", data, 26, width_px, height_px)
    elif data[:4] == b"RIFF" and data[12:16] == b"VP8L":
        _pack("<I", data, 21, (height_px & 0x3FFF) << 14 | width_px & 0x3FFF)
    elif data[:4] == b"RIFF":
        data[24:30] = (width_px & 0xFFFFFF).to_bytes(3, "little") + (height_px & 0xFFFFFF).to_bytes(3, "little")
    else:
        frame = max(data.find(bytes([0xFF, marker, 0])) for marker in (0xC0, 0xC1, 0xC2))
        _pack(">HH", data, frame + 5, height_px, width_px)


def _sign_chunks(data: bytearray) -> None:
    """Make the checksums of a PNG right as far as its chunks can be followed: else nothing but they would be tried."""
    place = 8
    while data[:4] == b"\x89PNG" and place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            return
        struct.pack_into(">I", data, end - 4, zlib.crc32(data[place + 4 : end - 4]))
        place = end


def _pack(form: str, data: bytearray, start: int, *values: int) -> None:
    most = 2**16 if "H" in form else 2**32
    struct.pack_into(form, data, start, *(value % most for value in values))


def _flip(data: bytearray, random: Random) -> None:
    for _ in range(random.randint(1, 8)):
        if data:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _cut(data: bytearray, random: Random) -> None:
    del data[random.randint(0, len(data)) :]


def _overwrite(data: bytearray, random: Random) -> None:
    start, length = _slice(data, random)
    data[start : start + length] = bytes([random.choice((0, 0xFF, 0x7F, 0xD8))]) * length


def _repeat_bytes(data: bytearray, random: Random) -> None:
    start, length = _slice(data, random)
    data[start:start] = data[start : start + length] * random.randint(1, 50)


def _repeat_chunk(data: bytearray, random: Random) -> None:
    """Repeat what stands between two places that look like the beginnings of chunks."""
    marks = [
        place
        for mark in (b"\xff\xc4", b"\xff\xda", b"\xff\xdb", b"IDAT", b"VP8", b"ANMF", b"!")
        for place in _all(data, mark)
    ]
    if len(marks) >= 2:
        first, second = sorted(random.sample(marks, 2))
        piece = data[first:second]
        data[second:second] = piece * random.randint(1, 1 + min(100, _MOST_REPEATED_BYTES // len(piece)))


def _drop(data: bytearray, random: Random) -> None:
    start, length = _slice(data, random)
    del data[start : start + length]


def _append(data: bytearray, random: Random) -> None:
    data += bytes(random.randrange(256) for _ in range(random.randint(1, 64)))


def _slice(data: bytearray, random: Random) -> tuple[int, int]:
    return random.randint(0, len(data)), random.randint(1, 64)


def _all(data: bytearray, mark: bytes) -> list[int]:
    found, start = [], data.find(mark)
    while start >= 0:
        found.append(start)
        start = data.find(mark, start + 1)
    return found
