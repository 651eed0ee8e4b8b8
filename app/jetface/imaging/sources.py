"""Where a picture comes from. What the bytes are is found out when they are decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


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
