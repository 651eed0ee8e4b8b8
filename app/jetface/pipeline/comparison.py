"""How alike faces are: cosine similarity of embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jetface.domain import PictureResult, Vector


def leading_vector(result: PictureResult) -> Vector | None:
    """Return the embedding of a picture's first face; None when it has none."""
    if not result.faces or result.faces[0].embedding is None:
        return None
    return result.faces[0].embedding.vector


def similarities(first: Sequence[Vector | None], second: Sequence[Vector | None]) -> NDArray[np.float32]:
    """Compare every embedding of `first` with every one of `second`.

    Args:
        first: N unit vectors of one length; None where there is no face.
        second: M of them.

    Returns:
        (N, M) float32 cosine similarity in [-1, 1]; NaN where either has no face.
    """
    length = next((len(vector) for vector in (*first, *second) if vector is not None), 1)
    with np.errstate(invalid="ignore"):
        product: NDArray[np.float32] = np.clip(_rows(first, length) @ _rows(second, length).T, -1, 1)
    return product


def _rows(vectors: Sequence[Vector | None], length: int) -> NDArray[np.float32]:
    rows = np.full((len(vectors), length), np.nan, np.float32)
    for index, vector in enumerate(vectors):
        if vector is not None:
            rows[index] = vector
    return rows
