"""Base64 text to the bytes it stands for, once and strictly."""

from __future__ import annotations

import binascii

import pybase64

from app.errors import ImageDecodeError

_PREFIX_LIMIT = 256
"""A `data:` prefix names a media type and some parameters; it is not searched for further than this."""


def decode_base64(text: str | memoryview) -> bytes:
    """Decode the base64 of a picture.

    Args:
        text: Standard alphabet, padded; a `data:...;base64,` prefix and line breaks are passed over.

    Returns:
        The bytes; empty for an empty text.

    Raises:
        ImageDecodeError: Anything else.
    """
    begin = text[:_PREFIX_LIMIT]
    prefix = begin if isinstance(begin, str) else bytes(begin).decode("latin-1")
    if prefix.startswith("data:"):
        head, mark, _ = prefix.partition(";base64,")
        if not mark:
            raise _not_base64()
        text = text[len(head) + len(mark) :]
    try:
        return _decode(text)
    except (binascii.Error, ValueError):  # not ASCII is a ValueError
        raise _not_base64() from None


def _decode(text: str | memoryview) -> bytes:
    try:
        return pybase64.b64decode(text, validate=True)
    except binascii.Error:
        # Some encoders break lines (RFC 2045). Rare, so that only they pay for a copy.
        encoded = text.encode("ascii") if isinstance(text, str) else bytes(text)
        without_breaks = encoded.translate(None, b"\r\n\t ")
        if len(without_breaks) == len(encoded):
            raise
        return pybase64.b64decode(without_breaks, validate=True)


def _not_base64() -> ImageDecodeError:
    return ImageDecodeError("The picture is not base64.")
