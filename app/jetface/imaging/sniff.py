"""What a file is, from its first bytes, and how large, before any pixel is decoded."""

from __future__ import annotations

from collections.abc import Callable

from jetface.errors import ImageDecodeError, ImageTooLargeError
from jetface.imaging import bitmaps, heif, jpeg, png, tiff, webp
from jetface.imaging.header import PictureHeader

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
    return data.startswith(jpeg.MAGIC) and len(data) <= _QUICK_BYTES


def _read_header(data: bytes, *, accept_tiff: bool) -> PictureHeader:
    if not data:
        raise ImageDecodeError("The picture is empty.")
    for is_one, read in _READERS:
        if is_one(data):
            return read(data)
    if accept_tiff and data[:4] in tiff.MAGICS:
        return tiff.read_header(data)
    accepted = [*ACCEPTED, *(["TIFF"] if accept_tiff else [])]
    raise ImageDecodeError(
        f"This is {_name_of(data)}, not a picture of an accepted format: "
        f"{', '.join(accepted[:-1])} and {accepted[-1]} are.",
        accepted=accepted,
    )


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], PictureHeader]], ...] = (
    (lambda data: data.startswith(jpeg.MAGIC), jpeg.read_header),
    (lambda data: data.startswith(png.MAGIC), png.read_header),
    (webp.is_webp, webp.read_header),
    (heif.is_heif, heif.read_header),
    (lambda data: data.startswith(bitmaps.GIF_MAGICS), bitmaps.read_gif_header),
    (lambda data: data.startswith(bitmaps.BMP_MAGIC), bitmaps.read_bmp_header),
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
