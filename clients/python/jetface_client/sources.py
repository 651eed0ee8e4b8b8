"""Where pictures come from: bytes, files of this machine, or URLs that the service fetches."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from jetface_client.results import Picture, PictureFailure

PICTURE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})
"""What is taken from a folder."""


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


def find_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """List the picture files of a folder and all below it, in order of name; hidden ones are left out.

    Raises:
        NotADirectoryError: `folder` is none.
    """
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    return [path for path in sorted(root.rglob("*")) if _is_picture(path, path.relative_to(root))]


def _is_picture(path: Path, relative: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in relative.parts)
    return path.suffix.lower() in PICTURE_SUFFIXES and not is_hidden and not path.is_dir()


def unreadable(cause: OSError) -> Picture:
    """Return what comes of a file this side cannot read."""
    return Picture(
        failure=PictureFailure(message=f"The file cannot be read: {cause.strerror}.", code="unreadable_file")
    )
