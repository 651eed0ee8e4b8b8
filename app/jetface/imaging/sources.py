"""Where a picture comes from; base64 in every dialect that clients write."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import pybase64

from jetface.errors import ImageDecodeError


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """The bytes of a picture file."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Base64Picture:
    """The bytes of a picture file as base64; a `data:...;base64,` prefix is accepted."""

    text: str | memoryview
    """A view is of the body that the text came in: it is long, and not copied."""


@dataclass(frozen=True, slots=True)
class RemotePicture:
    """A picture to be fetched: an http(s) URL, or a path below the folder of local pictures."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


PictureSource: TypeAlias = EncodedPicture | Base64Picture | RemotePicture


_PREFIX_LIMIT = 256
"""A `data:` prefix names a media type and some parameters; it is not searched for further than this."""

_PREFIX = re.compile(r"\s*data\s*:[^,]*;\s*base64\s*,", re.IGNORECASE)

_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
"""The URL-safe alphabet of RFC 4648, section 5, to that of section 4."""


def decode_base64(text: str | memoryview) -> bytes:
    """Decode the base64 of a picture.

    Args:
        text: Standard or URL-safe alphabet, with or without its padding; white space anywhere and a `data:...;base64,`
            prefix are passed over.

    Returns:
        The bytes; empty for an empty text.

    Raises:
        ImageDecodeError: Anything else.
    """
    begin = text[:_PREFIX_LIMIT]
    prefix = _PREFIX.match(begin if isinstance(begin, str) else bytes(begin).decode("latin-1"))
    text = text[prefix.end() :] if prefix else text
    try:
        # As nearly everyone sends it; only the others pay for a copy.
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # not ASCII is a ValueError
        pass
    try:
        encoded = text.encode("ascii") if isinstance(text, str) else bytes(text)
        encoded = encoded.translate(_TO_STANDARD, b" \t\r\n\f\v").rstrip(b"=")
        return pybase64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _not_base64() from None


def _not_base64() -> ImageDecodeError:
    return ImageDecodeError("The picture is not base64.")
