"""Where pictures come from: bytes, files of this machine, or URLs that the service fetches."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

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


PictureSource: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | Url
"""An encoded picture; a `str` or path names a file of this machine."""


Progress: TypeAlias = Callable[[int, int], object]
"""Called with the number of pictures done, and of all."""


def picture_fields(pictures: Sequence[PictureSource]) -> dict[str, Any]:
    """Return the `images` of a msgpack body; reads files.

    Raises:
        ValueError: URLs mixed with other pictures, which one request cannot carry.
        OSError: A file cannot be read.
    """
    urls = [picture.url for picture in pictures if isinstance(picture, Url)]
    if urls and len(urls) != len(pictures):
        raise ValueError("one request carries URLs or pictures, not both")
    return (
        {"urls": urls} if urls else {"data": [_read(picture) for picture in pictures if not isinstance(picture, Url)]}
    )


def _read(picture: bytes | bytearray | memoryview | str | os.PathLike[str]) -> bytes:
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    return Path(picture).read_bytes()


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
