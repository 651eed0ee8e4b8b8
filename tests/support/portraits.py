"""Whom a portrait is of."""

from __future__ import annotations

import numpy as np

from jetface.domain import Face


def middle_face(faces: tuple[Face, ...], image_hw: tuple[int, int]) -> Face | None:
    """Return whom the portrait is of: others may stand behind."""
    middle = np.array([image_hw[1], image_hw[0]]) / 2
    return min(faces, key=lambda face: float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - middle)), default=None)
