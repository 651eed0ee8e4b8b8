"""The pictures a service is verified on: drawn by code, or an owner's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np

from jetface.cli.pictures import find_pictures
from jetface.domain import Image
from jetface.judging.drawings import PEOPLE, draw_pictures, draw_portrait

CROWD_ROWS, CROWD_COLUMNS = 4, 8
_CROWD_HW = (240, 192)
"""Of each person in a crowd."""

_JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class Named:
    """An encoded picture."""

    name: str
    data: bytes


def portrait() -> bytes:
    """Return one person, 384x480 pixels, as JPEG."""
    return _encode(draw_pictures().pictures[0])


def crowd() -> bytes:
    """Return 32 people in rows, 1536x960 pixels, as JPEG."""
    height_px, width_px = _CROWD_HW
    people = [draw_portrait(looks, height_px=height_px, width_px=width_px) for looks in PEOPLE]
    row = np.hstack(people * (CROWD_COLUMNS // len(people)))
    return _encode(np.asarray(np.vstack([row] * CROWD_ROWS), np.uint8))


def pictures_of(folder: Path | None) -> Sequence[Named]:
    """Return the pictures below a folder; drawn ones where there is none.

    Raises:
        click.ClickException: The folder has no pictures.
    """
    if folder is None:
        return [Named(f"drawn {number}", _encode(image)) for number, image in enumerate(draw_pictures().pictures, 1)]
    found = [Named(str(each.relative), each.path.read_bytes()) for each in find_pictures([folder])]
    if not found:
        raise click.ClickException(f"no pictures in {folder}")
    return found


def _encode(image: Image) -> bytes:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return bytes(data.tobytes())
