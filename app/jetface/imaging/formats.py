"""Format, size and orientation of a picture from its first bytes, before any pixel is decoded."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import mul

from jetface.errors import ImageDecodeError, ImageTooLargeError
from jetface.imaging import heif
from jetface.imaging.header import EXIF_MARK, PictureHeader, damaged, read_orientation, truncated

BMP_MAGIC = b"BM"
_BMP_32_BIT_MASKED = struct.pack("<HI", 32, 3)
_BMP_MASKS = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
"""Where OpenCV 5.0 takes colours to lie, whatever a header of less than 56 bytes says."""
GIF_MAGICS = (b"GIF87a", b"GIF89a")

_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C
_MAX_GIF_BLOCKS = 4096
"""Comments and the like before the first frame; bounds the time a hostile file costs."""


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
    bits_and_coding = data[28:34]
    if 40 <= header_length < 56 and bits_and_coding == _BMP_32_BIT_MASKED and data[54:66] != _BMP_MASKS:
        raise ImageDecodeError("The picture is a kind of BMP that is not supported: its colours are in another order.")
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
    _check_first_gif_frame(data)
    return PictureHeader(format="gif", stored_hw=(height, width))


def _check_first_gif_frame(data: bytes) -> None:
    """Refuse a GIF that ends before its first frame does. Source: GIF89a specification, 15 to 27 and appendix A."""
    try:
        position = 13 + _palette_bytes(data[10])
        for _ in range(_MAX_GIF_BLOCKS):
            kind = data[position]
            if kind == _GIF_IMAGE:
                _end_of_gif_blocks(data, position + 11 + _palette_bytes(data[position + 9]))
                return
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


JPEG_MAGIC = b"\xff\xd8\xff"

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
_END_OF_IMAGE = b"\xff\xd9"
_UNWRITTEN = bytes(512)
"""What a file ends with whose length was set before all of it had come; decoders read a flat colour from it."""
_MARKER = re.compile(rb"\xff[^\x00\xff]")
"""A marker's code behind the last of its fill bytes; FF 00 is no marker."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length: TEM, RST0 to RST7, a second SOI."""


@dataclass(frozen=True, slots=True)
class _JpegFrame:
    """A start-of-frame segment."""

    height: int
    width: int
    components: bytes
    """Their numbers."""
    samples_per_pixel: float
    is_progressive: bool


def read_jpeg_header(data: bytes) -> PictureHeader:
    """Read a JPEG up to its first scan.

    Fill bytes and garbage between segments are skipped as libjpeg does, so that both see the same size.

    Raises:
        ImageDecodeError: Truncated, no frame before the first scan, or a kind no decoder here reads.

    Source: ITU-T T.81, annex B.
    """
    frame: _JpegFrame | None = None
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
            return _jpeg_header(frame, orientation or 1, is_buffered=is_buffered)
        if marker == _APP1 and orientation is None and data.startswith(EXIF_MARK, position + 2, end):
            orientation = read_orientation(data[position + 2 : end])
        elif marker in _SOF:
            if frame is not None:
                raise damaged()
            frame = _read_jpeg_frame(marker, data[position + 2 : end])
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


def _read_jpeg_frame(marker: int, segment: bytes) -> _JpegFrame:
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
    return _JpegFrame(
        height=height,
        width=width,
        components=segment[6 : 6 + 3 * num_components : 3],
        samples_per_pixel=sum(map(mul, across, down)) / most,
        is_progressive=marker == _SOF_PROGRESSIVE,
    )


def _check_scans(data: bytes, position: int, frame: _JpegFrame, *, is_buffered: bool) -> None:
    """Refuse a picture with more scans than any encoder writes, one that was cut off between two, or not all written.

    In the coded data after a scan's header FF is always followed by 00 or a restart marker, so plain searches do.

    Source: ITU-T T.81, B.2.3 and G.1.1.1.
    """
    if data.endswith(_UNWRITTEN) and data.find(_END_OF_IMAGE, position) < 0:
        raise truncated()
    if not is_buffered:
        return
    missing = {(component, coefficient) for component in frame.components for coefficient in range(64)}
    has_end = data.rfind(_END_OF_IMAGE, position) >= 0
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


def _jpeg_header(frame: _JpegFrame, orientation: int, *, is_buffered: bool) -> PictureHeader:
    return PictureHeader(
        format="jpeg",
        stored_hw=(frame.height, frame.width),
        orientation=orientation,
        num_channels=len(frame.components),
        side_bytes_per_pixel=2 * frame.samples_per_pixel if is_buffered else 0.0,
    )


PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"

MAX_PNG_CHUNKS = 65_536
"""64 MiB in libpng's own chunks of 8 kB are 8192; bounds the time a hostile file costs."""

_UNREAD_PNG_CHUNKS = frozenset({b"zTXt", b"iTXt", b"acTL", b"fcTL", b"fdAT"})
"""Compressed texts: libpng unpacks up to a thousand, each to 8 MB, and keeps them, 8 GB for a file of 8 MB. And what
makes an animation of a still picture: of a damaged one OpenCV 4.11 and 5.0 read and write memory that is not theirs."""

_MOST_UNCHECKED_BYTES = 2**22
"""Shorter coded data is not looked through: what it may hold beyond the picture is unpacked within seconds."""

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By colour type."""


def read_png_header(data: bytes) -> PictureHeader:
    """Walk a PNG from chunk to chunk, up to its end.

    Raises:
        ImageDecodeError: Truncated, the first chunk is not the header, or a chunk fails its checksum.

    Source: PNG specification, third edition, sections 5 and 11.
    """
    num_given, data = len(data), with_png_end(data)
    stored_hw: tuple[int, int] | None = None
    orientation = 1
    position = len(PNG_MAGIC)
    for _ in range(MAX_PNG_CHUNKS):
        if position + 12 > len(data):
            raise truncated()
        length, kind = struct.unpack_from(">I4s", data, position)
        payload, end = position + 8, position + 12 + length
        if end > (len(data) if kind == b"IEND" else num_given):
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
        elif kind == b"IEND":
            return PictureHeader(format="png", stored_hw=stored_hw, orientation=orientation)
        position = end
    raise damaged()


def with_png_end(png: bytes) -> bytes:
    """Return a PNG that ends with its last chunk: where that alone is missing, all pixels are there."""
    if png.endswith(_PNG_END) or b"IDAT" not in png:
        return png
    num_there = next(length for length in range(len(_PNG_END) - 1, -1, -1) if png.endswith(_PNG_END[:length]))
    return png + _PNG_END[num_there:]


def plain_png(data: bytes) -> bytes:
    """Return a PNG that `read_png_header` has read without its compressed texts and its animation.

    Raises:
        ImageDecodeError: Much more is coded in it than its pixels. libpng would unpack all of that, for minutes.

    Source: PNG specification, third edition, sections 8 and 11.
    """
    has_unread = any(kind in data for kind in _UNREAD_PNG_CHUNKS)
    if len(data) <= _MOST_UNCHECKED_BYTES and not has_unread:
        return data
    kept: list[bytes | memoryview] = [data[: len(PNG_MAGIC)]]
    coded: list[memoryview] = []
    position = len(PNG_MAGIC)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind == b"IDAT":
            coded.append(memoryview(data)[position + 8 : end - 4])
        if kind not in _UNREAD_PNG_CHUNKS:
            kept.append(memoryview(data)[position:end])
        position = len(data) if kind == b"IEND" else end
    if sum(map(len, coded)) > _MOST_UNCHECKED_BYTES:
        _check_coded(coded, _most_png_bytes(data))
    return b"".join(kept) if has_unread else data


def _most_png_bytes(data: bytes) -> int:
    """Return how many bytes the rows of a PNG take at most: seven passes have more rows than the picture."""
    width, height, depth, color = struct.unpack_from(">IIBB", data, len(PNG_MAGIC) + 8)
    row_bytes: int = 1 + -(-width * depth * _PNG_CHANNELS.get(color, 4) // 8)
    return 2 * int(height) * row_bytes + _MOST_UNCHECKED_BYTES


def _check_coded(coded: Iterable[memoryview], most_bytes: int) -> None:
    unpacker = zlib.decompressobj()
    num_bytes = 0
    try:
        for piece in coded:
            rest: bytes | memoryview = piece
            while rest and not unpacker.eof:
                num_bytes += len(unpacker.decompress(rest, 2**20))
                rest = unpacker.unconsumed_tail
                if num_bytes > most_bytes:
                    raise damaged()
    except zlib.error:
        raise damaged() from None


def _uint32(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 4], "big")


MAX_WEBP_CHUNKS = 4096
"""A still picture has a handful; an animation two a frame. Bounds the time a hostile file costs."""

_LOSSLESS_BYTES_PER_PIXEL = 4.0
"""libwebp unpacks a lossless picture to ARGB before it converts to what was asked for."""

_ANIMATED_WEBP_SIDE_BYTES = 6.0
"""Measured: OpenCV 5.0 holds up to 11.2 bytes a pixel of an animation, six of them the picture and its copy."""


def is_webp(data: bytes) -> bool:
    """Whether the first bytes say WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_webp_header(data: bytes) -> PictureHeader:
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
    stored_hw = _webp_stored_hw(kind, data[20:30])
    orientation = 1
    side_bytes_per_pixel = _LOSSLESS_BYTES_PER_PIXEL if kind == b"VP8L" else 0.0
    if kind == b"VP8X":
        orientation, kinds = _read_extended(data, end)
        if kinds & {b"VP8L", b"ALPH"}:
            side_bytes_per_pixel = _LOSSLESS_BYTES_PER_PIXEL
        if b"ANMF" in kinds:
            side_bytes_per_pixel = _ANIMATED_WEBP_SIDE_BYTES
    return PictureHeader(
        format="webp", stored_hw=stored_hw, orientation=orientation, side_bytes_per_pixel=side_bytes_per_pixel
    )


def _webp_stored_hw(kind: bytes, payload: bytes) -> tuple[int, int]:
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
    for _ in range(MAX_WEBP_CHUNKS):
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


TIFF_MAGICS = {b"II*\0": "<", b"MM\0*": ">"}
"""Of the classic format and its byte orders; BigTIFF has another."""

_WIDTH, _HEIGHT, _BITS, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 258, 277, 322, 323
_LETTERS = {1: "B", 3: "H", 4: "I"}
_MAX_ENTRIES = 512
_MOST_BITS = 64
_UNPACKED_SIDE_BYTES = 4.5
"""Measured: OpenCV 5.0 holds up to 10.1 bytes a pixel, six of them the picture and its copy."""


def read_tiff_header(data: bytes) -> PictureHeader:
    """Read the first directory of a TIFF.

    Raises:
        ImageDecodeError: Truncated or damaged, or a tile is larger than the picture.

    Source: TIFF 6.0, sections 2, 8 and 15.
    """
    order = TIFF_MAGICS[data[:4]]
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
    is_transposed = read_orientation(data) >= 5
    return PictureHeader(
        format="tiff",
        # OpenCV turns a TIFF upright, though told not to.
        stored_hw=(width, height) if is_transposed else (height, width),
        side_bytes_per_pixel=max(_UNPACKED_SIDE_BYTES, bits / 8),
    )


ACCEPTED = ("JPEG", "PNG", "WebP", "GIF", "BMP", "HEIC", "AVIF")
"""The formats in the words of an error."""

_QUICK_BYTES = 2**20
"""A progressive JPEG of this length takes 1.5 ms: its scans are counted."""

_OTHERS = (
    (b"II*\0", "a TIFF picture, or a camera's raw file"),
    (b"MM\0*", "a TIFF picture, or a camera's raw file"),
    (b"II+\0", "a BigTIFF picture"),
    (b"MM\0+", "a BigTIFF picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\1\0", "an icon"),
    (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance picture"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (b"%PDF", "a PDF document"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x1a\x45\xdf\xa3", "a video"),
    (b"\0\0\1\xba", "a video"),
    (b"ID3", "an audio file"),
    (b"OggS", "an audio or video file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
"""What other files begin with, and what they are called in an error."""

_TEXT_BYTES = 256


def sniff(data: bytes, *, max_pixels: int, accept_tiff: bool = False) -> PictureHeader:
    """Read the header of a picture file in time bounded by its length.

    Names, extensions and content types are ignored: only the bytes decide.

    Args:
        data: The whole file.
        max_pixels: Most pixels the header may claim.
        accept_tiff: Whether TIFF is read.

    Returns:
        The header; its size is at least 1x1 and at most `max_pixels`.

    Raises:
        ImageDecodeError: Empty, of no accepted format, truncated, damaged or without a pixel.
        ImageTooLargeError: More pixels than `max_pixels`.
    """
    header = _read_header(data, accept_tiff=accept_tiff)
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


def is_picture(start: bytes) -> bool:
    """Whether a file that begins so is of an accepted format; TIFF is not looked for."""
    return any(is_one(start) for is_one, _ in _READERS)


def has_quick_header(data: bytes) -> bool:
    """Whether `sniff` takes less time than a visit to another thread (0.2 ms): 8 us for a usual JPEG, 2 ms at worst."""
    return data.startswith(JPEG_MAGIC) and len(data) <= _QUICK_BYTES


def _read_header(data: bytes, *, accept_tiff: bool) -> PictureHeader:
    if not data:
        raise ImageDecodeError("The picture is empty.")
    for is_one, read in _READERS:
        if is_one(data):
            return read(data)
    if accept_tiff and data[:4] in TIFF_MAGICS:
        return read_tiff_header(data)
    accepted = [*ACCEPTED, *(["TIFF"] if accept_tiff else [])]
    raise ImageDecodeError(
        f"This is {_name_of(data)}, not a picture of an accepted format: "
        f"{', '.join(accepted[:-1])} and {accepted[-1]} are.",
        accepted=accepted,
    )


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], PictureHeader]], ...] = (
    (lambda data: data.startswith(JPEG_MAGIC), read_jpeg_header),
    (lambda data: data.startswith(PNG_MAGIC), read_png_header),
    (is_webp, read_webp_header),
    (heif.is_heif, heif.read_header),
    (lambda data: data.startswith(GIF_MAGICS), read_gif_header),
    (lambda data: data.startswith(BMP_MAGIC), read_bmp_header),
)
"""What tells a format, and what reads its header."""


def _name_of(data: bytes) -> str:
    """Say what a file is that is not accepted; nothing of it is repeated."""
    start = data[:_TEXT_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    if data[4:8] == b"ftyp":
        name = "a camera's raw file" if data[8:11] == b"crx" else "a video"
    elif data[:4] == b"RIFF":
        name = "an audio or video file"
    elif start.startswith(b"<"):
        name = "an SVG picture" if b"<svg" in start.lower() else "an HTML or XML document"
    elif start.startswith((b"{", b"[")):
        name = "JSON"
    else:
        is_text = not any((byte < 32 and byte not in b"\t\r\n\f") or byte > 126 for byte in start)
        name = "text" if is_text else "a file of an unknown kind"
    return next((other for magic, other in _OTHERS if data.startswith(magic)), name)
