"""Where pictures come from: bytes, files of this machine, pixels, or URLs that the service fetches."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetface_client.results import Picture, PictureFailure

PICTURE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".webp"}
)
"""What is taken from a folder; a file without suffix by its first bytes."""

_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis"})


@dataclass(frozen=True, slots=True)
class Url:
    """A picture the *service* fetches: `http(s)://...`, or a path below its `ROOT_IMAGES_DIR`; off there by default."""

    url: str


class ReadableFile(Protocol):
    """A file object that was opened for reading bytes."""

    def read(self) -> bytes:
        """Return what is left of it."""
        ...


_Held: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | ReadableFile | NDArray[Any]
PictureSource: TypeAlias = _Held | Url
"""An encoded picture: bytes, a file object, which is read from where it stands, or the path of a file of this machine.

Pixels: (H, W, 3) uint8 in the order BGR, as OpenCV has them, or (H, W) gray; RGB is given as `rgb[..., ::-1]`. They are
sent as they are, in a BMP. Or a `Url`, for which a `str` that begins with `http://` or `https://` is taken, too.
"""


Progress: TypeAlias = Callable[[int, int], object]
"""Called with the number of pictures done, and of all."""


def picture_fields(pictures: Sequence[PictureSource]) -> dict[str, Any]:
    """Return the `images` of a msgpack body; reads files.

    Raises:
        ValueError: URLs mixed with other pictures, which one request cannot carry; an array that is no picture.
        TypeError: A file object that was opened as text.
        OSError: A file cannot be read.
    """
    urls, held = list[str](), list[_Held]()
    for picture in pictures:
        if isinstance(picture, Url):
            urls.append(picture.url)
        elif isinstance(picture, str) and picture.startswith(("http://", "https://")):
            urls.append(picture)
        else:
            held.append(picture)
    if urls and held:
        raise ValueError("one request carries URLs or pictures, not both")
    return {"urls": urls} if urls else {"data": [_read(picture) for picture in held]}


def _read(picture: _Held) -> bytes:
    if isinstance(picture, np.ndarray):
        return _as_bmp(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        return Path(picture).read_bytes()
    content = picture.read()
    if not isinstance(content, bytes):
        raise TypeError('a picture is read from a file opened as "rb"')
    return content


def _as_bmp(pixels: NDArray[Any]) -> bytes:
    """Return pixels as a BMP of 24 bits: blue, green, red, rows from the bottom, each filled up to four bytes.

    Raises:
        ValueError: Neither (H, W, 3) nor (H, W), not uint8, or empty.

    Source: Microsoft Learn, BITMAPFILEHEADER and BITMAPINFOHEADER.
    """
    if pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (3,)) or pixels.ndim < 2 or not pixels.size:
        raise ValueError(f"pixels are (H, W, 3) in BGR or (H, W), uint8; not {pixels.shape}, {pixels.dtype}")
    height, width = pixels.shape[:2]
    rows = np.zeros((height, (3 * width + 3) // 4 * 4), np.uint8)
    colored = rows[:, : 3 * width].reshape(height, width, 3)
    colored[:] = pixels[::-1] if pixels.ndim == 3 else pixels[::-1, :, None]
    file = struct.pack("<2sIHHI", b"BM", 54 + rows.size, 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, rows.size, 0, 0, 0, 0)
    return file + info + rows.tobytes()


def find_pictures(folder: str | os.PathLike[str], *, skipped: Counter[str] | None = None) -> list[Path]:
    """List the picture files of a folder and all below it, in order of name; hidden ones are left out.

    Args:
        folder: Where to look.
        skipped: Counts by reason what else lies there: its suffix, `without suffix`, `unreadable`.

    Raises:
        NotADirectoryError: `folder` is none.
    """
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    skipped = Counter() if skipped is None else skipped
    pictures = []
    for path in sorted(root.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        reason = _reason_to_skip(path)
        if reason is None:
            pictures.append(path)
        elif reason:
            skipped[reason] += 1
    return pictures


def _reason_to_skip(path: Path) -> str | None:
    """Return None for a picture; nothing for a folder, of which nothing is to be said."""
    if path.is_dir():
        return "" if os.access(path, os.R_OK | os.X_OK) else "unreadable"
    suffix = path.suffix.lower()
    if suffix and suffix not in PICTURE_SUFFIXES:
        return suffix
    try:
        if not path.is_file():
            return "unreadable" if path.is_symlink() else "no file"
        if suffix:
            return None
        with path.open("rb") as file:
            return None if _begins_as_picture(file.read(16)) else "without suffix"
    except OSError:
        return "unreadable"


def _begins_as_picture(start: bytes) -> bool:
    is_webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    is_heif = start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS
    return start.startswith(_STARTS) or is_webp or is_heif


def unreadable(cause: OSError) -> Picture:
    """Return what comes of a file this side cannot read."""
    return Picture(
        failure=PictureFailure(message=f"The file cannot be read: {cause.strerror}.", code="unreadable_file")
    )
