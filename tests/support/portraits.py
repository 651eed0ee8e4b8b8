"""Whom a portrait is of, and what was asked for of a face."""

from __future__ import annotations

import numpy as np

from jetface.domain import Face, Image, Tensor


def middle_face(faces: tuple[Face, ...], image_hw: tuple[int, int]) -> Face | None:
    """Return whom the portrait is of: others may stand behind."""
    middle = np.array([image_hw[1], image_hw[0]]) / 2
    return min(faces, key=lambda face: float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - middle)), default=None)


def vector_of(face: Face | None) -> Tensor:
    """Return the unit embedding of a face that has to have one, (L,)."""
    assert face is not None
    assert face.embedding is not None
    return face.embedding.vector


def crop_of(face: Face | None) -> Image:
    """Return the aligned crop of a face that has to have one, (112, 112, 3), BGR."""
    assert face is not None
    assert face.crop is not None
    return face.crop
