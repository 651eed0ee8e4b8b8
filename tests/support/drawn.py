"""Portraits drawn by code: detectors take them for faces, and they show nobody."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from jetface.judging.drawings import PEOPLE, Person, draw_portrait

__all__ = ["PEOPLE", "Person", "Picture", "draw_group", "draw_portrait", "encode"]

Picture = NDArray[np.uint8]


def draw_group(people: tuple[Person, ...] = PEOPLE) -> Picture:
    """Return people side by side, as `draw_portrait` draws them."""
    return np.hstack([draw_portrait(looks) for looks in people])


def encode(picture: Picture, ending: str = ".png") -> bytes:
    """Return a picture as the bytes of a file."""
    _, encoded = cv2.imencode(ending, picture)
    return encoded.tobytes()
