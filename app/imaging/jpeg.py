"""JPEG headers: size, colour, orientation, and what decoding costs, from the markers alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from app.errors import ImageDecodeError
from app.imaging.header import PictureHeader, damaged, truncated
from app.imaging.orientation import EXIF_MARK, read_orientation

MAGIC = b"\xff\xd8\xff"

MAX_SEGMENTS = 1024
"""A camera writes a dozen, a colour profile in 64 kB parts a few more; bounds the time a hostile file costs."""

MAX_SCANS = 64
"""A progressive file has about ten; each costs a pass over the whole picture, so a few kilobytes of empty scans could
keep a core busy for minutes."""

_SOF_BASELINE, _SOF_EXTENDED, _SOF_PROGRESSIVE = 0xC0, 0xC1, 0xC2
_READABLE_SOF = frozenset({_SOF_BASELINE, _SOF_EXTENDED, _SOF_PROGRESSIVE})
_NOT_SOF = frozenset({0xC4, 0xC8, 0xCC})
"""Within the range of start-of-frame markers: Huffman tables, a reserved one, arithmetic conditioning."""

_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length: TEM, RST0 to RST7, a second SOI."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """A start-of-frame segment."""

    height: int
    width: int
    num_components: int
    samples_per_pixel: float
    is_progressive: bool


def read_header(data: bytes) -> PictureHeader:
    """Read a JPEG up to its first scan.

    Fill bytes and garbage between segments are skipped as libjpeg does, so that both see the same size.

    Raises:
        ImageDecodeError: Truncated, no frame before the first scan, or a kind no decoder here reads.

    Source: ITU-T T.81, annex B.
    """
    frame: _Frame | None = None
    orientation: int | None = None
    position = 2
    for _ in range(MAX_SEGMENTS):
        marker, position = _next_marker(data, position)
        if marker in _ALONE:
            continue
        if marker == _EOI:
            raise damaged()
        segment, position = _segment(data, position)
        if marker == _SOS:
            if frame is None or not segment:
                raise damaged()
            # libjpeg keeps every coefficient, two bytes each, when one scan does not hold all there is of a block.
            is_buffered = frame.is_progressive or segment[0] < frame.num_components
            _check_scans(data, position, has_more=is_buffered)
            return _header(frame, orientation or 1, is_buffered=is_buffered)
        if marker == _APP1 and orientation is None and segment[:6] == EXIF_MARK:
            orientation = read_orientation(segment)
        elif 0xC0 <= marker <= 0xCF and marker not in _NOT_SOF:
            if frame is not None:
                raise damaged()
            frame = _read_frame(marker, segment)
    raise damaged()


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    """Return the next marker's code at or after `position`, and where its segment begins."""
    while True:
        position = data.find(b"\xff", position) + 1
        if not position:
            raise truncated()
        while data[position : position + 1] == b"\xff":  # any number of fill bytes
            position += 1
        if position == len(data):
            raise truncated()
        if data[position]:  # FF 00 is no marker
            return data[position], position + 1


def _segment(data: bytes, position: int) -> tuple[bytes, int]:
    """Return a segment's payload and where the next marker is to be looked for."""
    if position + 2 > len(data):
        raise truncated()
    length = data[position] << 8 | data[position + 1]
    if length < 2:
        raise damaged()
    if position + length > len(data):
        raise truncated()
    return data[position + 2 : position + length], position + length


def _read_frame(marker: int, segment: bytes) -> _Frame:
    if len(segment) < 6:
        raise damaged()
    precision, height, width, num_components = struct.unpack_from(">BHHB", segment)
    if marker not in _READABLE_SOF or precision != 8:
        raise ImageDecodeError("The picture is a kind of JPEG that is not supported: only 8-bit Huffman coding is.")
    if num_components not in {1, 3, 4} or len(segment) < 6 + 3 * num_components:
        raise damaged()
    factors = [segment[7 + 3 * index] for index in range(num_components)]
    samplings = [(factor >> 4, factor & 15) for factor in factors]
    if any(not 1 <= side <= 4 for sampling in samplings for side in sampling):
        raise damaged()
    most = max(across for across, _ in samplings) * max(down for _, down in samplings)
    return _Frame(
        height=height,
        width=width,
        num_components=num_components,
        samples_per_pixel=sum(across * down for across, down in samplings) / most,
        is_progressive=marker == _SOF_PROGRESSIVE,
    )


def _check_scans(data: bytes, position: int, *, has_more: bool) -> None:
    """Refuse a picture without its end marker, or with more scans than any encoder writes.

    In the coded data after a scan's header FF is always followed by 00 or a restart marker, so plain searches do.
    The end is searched from behind: it is found at once in a whole picture.
    """
    if data.rfind(b"\xff\xd9", position) < 0:
        raise truncated()
    if has_more and data.count(b"\xff\xda", position) >= MAX_SCANS:
        raise ImageDecodeError("The picture has too many scans.")


def _header(frame: _Frame, orientation: int, *, is_buffered: bool) -> PictureHeader:
    return PictureHeader(
        format="jpeg",
        stored_hw=(frame.height, frame.width),
        orientation=orientation,
        num_channels=frame.num_components,
        side_bytes_per_pixel=2 * frame.samples_per_pixel if is_buffered else 0.0,
    )
