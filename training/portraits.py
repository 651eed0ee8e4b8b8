"""The pictures that the students learn from, and who of the people in them is held out.

`portraits.tar` holds `name/name_0001.webp` (250x250, the named face in the middle), `backgrounds.tar` natural pictures.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

PORTRAIT_PX: Final = 250
HELD_OUT_ONE_IN: Final = 10

Image: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) BGR."""


@dataclass(frozen=True, slots=True)
class Portrait:
    """One picture of one named person."""

    file_name: str
    person: str
    image: Image


def is_held_out(person: str) -> bool:
    """Tell whether a person is kept for judging and never trained on: sha256 of the name, modulo ten, is zero."""
    return int(hashlib.sha256(person.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


def decode(encoded: bytes) -> Image:
    """Decode one picture."""
    with Pillow.open(io.BytesIO(encoded)) as picture:
        return np.ascontiguousarray(np.asarray(picture.convert("RGB"), np.uint8)[:, :, ::-1])


def read_images(
    archive: Path, limit: int | None = None, names: frozenset[str] | None = None
) -> Iterator[tuple[str, Image]]:
    """Yield (member name, BGR picture) of a tar in the order of the names: the first `limit`, or those of `names`."""
    with tarfile.open(archive) as tar, ThreadPoolExecutor() as threads:
        files = (m for m in tar.getmembers() if m.isfile() and (names is None or m.name in names))
        members = sorted(files, key=lambda m: m.name)[:limit]
        encoded = [stream.read() for m in members if (stream := tar.extractfile(m))]
        for member, image in zip(members, threads.map(decode, encoded), strict=True):
            yield member.name, image


def read_portraits(archive: Path, limit: int | None = None) -> Iterator[Portrait]:
    """Yield the portraits in the order of their names, the first `limit` of them.

    Raises:
        ValueError: A picture is not 250x250.
    """
    for name, image in read_images(archive, limit):
        if image.shape != (PORTRAIT_PX, PORTRAIT_PX, 3):
            raise ValueError(f"{name}: expected {PORTRAIT_PX}x{PORTRAIT_PX}, found {image.shape}")
        yield Portrait(name, name.split("/")[-2], image)
