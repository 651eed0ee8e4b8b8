"""JPEG headers: size, colour, orientation, and what decoding costs, from the markers alone."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from operator import mul

from jetface.errors import ImageDecodeError
from jetface.imaging.header import PictureHeader, damaged, truncated
from jetface.imaging.orientation import EXIF_MARK, read_orientation

MAGIC = b"\xff\xd8\xff"

MAX_SEGMENTS = 1024
"""A camera writes a dozen, a colour profile in 64 kB parts a few more; bounds the time a hostile file costs."""

MAX_SCANS = 64
"""A progressive file has about ten; each costs a pass over the whole picture, so a few kilobytes of empty scans could
keep a core busy for minutes."""

_SOF_BASELINE, _SOF_EXTENDED, _SOF_PROGRESSIVE = 0xC0, 0xC1, 0xC2
_READABLE_SOF = frozenset({_SOF_BASELINE, _SOF_EXTENDED, _SOF_PROGRESSIVE})
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start-of-frame markers; in between are Huffman tables, a reserved one, arithmetic conditioning."""

_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xff]")
"""A marker's code behind the last of its fill bytes; FF 00 is no marker."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length: TEM, RST0 to RST7, a second SOI."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """A start-of-frame segment."""

    height: int
    width: int
    components: bytes
    """Their numbers."""
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
        found = _MARKER.search(data, position)
        if found is None:
            raise truncated()
        position = found.end()
        marker = data[position - 1]
        if marker in _ALONE:
            continue
        if marker == _EOI:
            raise damaged()
        end = _end_of_segment(data, position)
        if marker == _SOS:
            if frame is None or end < position + 3:
                raise damaged()
            # libjpeg keeps every coefficient, two bytes each, when one scan does not hold all there is of a block.
            is_buffered = frame.is_progressive or data[position + 2] < len(frame.components)
            _check_scans(data, position - 2, frame, is_buffered=is_buffered)
            return _header(frame, orientation or 1, is_buffered=is_buffered)
        if marker == _APP1 and orientation is None and data.startswith(EXIF_MARK, position + 2, end):
            orientation = read_orientation(data[position + 2 : end])
        elif marker in _SOF:
            if frame is not None:
                raise damaged()
            frame = _read_frame(marker, data[position + 2 : end])
        position = end
    raise damaged()


def _end_of_segment(data: bytes, position: int) -> int:
    """Return where a segment ends whose length is at `position`."""
    if position + 2 > len(data):
        raise truncated()
    length = data[position] << 8 | data[position + 1]
    if length < 2:
        raise damaged()
    if position + length > len(data):
        raise truncated()
    return position + length


def _read_frame(marker: int, segment: bytes) -> _Frame:
    if len(segment) < 6:
        raise damaged()
    precision, height, width, num_components = struct.unpack_from(">BHHB", segment)
    if marker not in _READABLE_SOF or precision != 8:
        raise ImageDecodeError("The picture is a kind of JPEG that is not supported: only 8-bit Huffman coding is.")
    if num_components not in {1, 3, 4} or len(segment) < 6 + 3 * num_components:
        raise damaged()
    across = [factor >> 4 for factor in segment[7 : 6 + 3 * num_components : 3]]
    down = [factor & 15 for factor in segment[7 : 6 + 3 * num_components : 3]]
    if min(across + down) < 1 or max(across + down) > 4:
        raise damaged()
    most = max(across) * max(down)
    return _Frame(
        height=height,
        width=width,
        components=segment[6 : 6 + 3 * num_components : 3],
        samples_per_pixel=sum(map(mul, across, down)) / most,
        is_progressive=marker == _SOF_PROGRESSIVE,
    )


def _check_scans(data: bytes, position: int, frame: _Frame, *, is_buffered: bool) -> None:
    """Refuse a picture with more scans than any encoder writes, or one that was cut off between two of them.

    In the coded data after a scan's header FF is always followed by 00 or a restart marker, so plain searches do.

    Source: ITU-T T.81, B.2.3 and G.1.1.1.
    """
    if not is_buffered:
        return
    missing = {(component, coefficient) for component in frame.components for coefficient in range(64)}
    has_end = data.rfind(_END, position) >= 0
    for _ in range(MAX_SCANS):
        if not has_end:
            missing -= _finished_by_scan(data[position + 4 : position + 4 + 12])
        position = data.find(b"\xff\xda", position + 2)
        if position < 0:
            if missing and not has_end:
                raise truncated()
            return
    raise ImageDecodeError("The picture has too many scans.")


def _finished_by_scan(header: bytes) -> set[tuple[int, int]]:
    """Return the components and coefficients whose last bit a scan brings; `header` begins with how many there are."""
    end = 1 + 2 * header[0] if header else 0
    if len(header) < end + 3:
        return set()
    first, last, bits = header[end : end + 3]
    if bits & 15:
        return set()
    return {(component, coefficient) for component in header[1:end:2] for coefficient in range(first, last + 1)}


def _header(frame: _Frame, orientation: int, *, is_buffered: bool) -> PictureHeader:
    return PictureHeader(
        format="jpeg",
        stored_hw=(frame.height, frame.width),
        orientation=orientation,
        num_channels=len(frame.components),
        side_bytes_per_pixel=2 * frame.samples_per_pixel if is_buffered else 0.0,
    )
