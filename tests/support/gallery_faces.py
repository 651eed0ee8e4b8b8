"""Vectors as a recognizer's, and faces made of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jetface.gallery.records import ModelPin, NewFace

LENGTH = 512
PIN = ModelPin(name="recognizer", sha256="a" * 64, embedding_length=LENGTH)
OTHER_PIN = ModelPin(name="other", sha256="b" * 64, embedding_length=LENGTH)


def vectors_of(num_persons: int, num_each: int = 1, *, seed: int = 0, length: int = LENGTH) -> NDArray[np.float32]:
    """Return (num_persons, num_each, length) unit vectors.

    Those of a person are alike, to about 0.6. A few directions carry most of what differs, as in embeddings of a
    recognizer.
    """
    random = np.random.default_rng(seed)
    spread = np.linspace(2, 0.2, length)
    persons = random.standard_normal((num_persons, 1, length)) * spread
    faces = persons + 0.8 * random.standard_normal((num_persons, num_each, length)) * spread
    units: NDArray[np.float32] = (faces / np.linalg.norm(faces, axis=-1, keepdims=True)).astype(np.float32)
    return units


def new_faces(vectors: NDArray[np.float32], **facts: object) -> list[NewFace]:
    """Return a face to be stored for each row."""
    return [NewFace(vector=vector, **facts) for vector in vectors]  # type: ignore[arg-type]
