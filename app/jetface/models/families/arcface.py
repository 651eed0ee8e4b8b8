"""The `arcface` family: aligned crops to embeddings, of any length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jetface.domain import Embedding
from jetface.errors import ModelContractError, NotFiniteError
from jetface.geometry.alignment import CROP_SIDE_PX
from jetface.geometry.tensors import normalize_rows
from jetface.models.families.rows import RowHead
from jetface.specs import ModelSpec


class Arcface(RowHead[Embedding]):
    """Runs an ArcFace graph on crops."""

    def __init__(self, spec: ModelSpec, *, takes_pixels: bool = False) -> None:
        """Create a recognizer for a registry entry of the recognition task.

        Args:
            spec: The entry.
            takes_pixels: The graph normalises pixels itself.

        Raises:
            ModelContractError: The entry is for crops of another size than 112x112, or names no embedding length.
        """
        super().__init__(spec, takes_pixels=takes_pixels)
        if self.input_hw != (CROP_SIDE_PX, CROP_SIDE_PX):
            raise ModelContractError(
                f"ArcFace takes crops of 112x112 pixels; {spec.name} wants {self.input_hw[0]}x{self.input_hw[1]}."
            )

    def decode(self, rows: NDArray[np.float32]) -> list[Embedding]:
        """Bring each row to unit length. Vectors are float32, rows of one array a call.

        Raises:
            NotFiniteError: A row is zero, or so long that its length is not finite.
        """
        vectors, norms = normalize_rows(rows)
        if not np.isfinite(norms).all() or not norms.all():
            raise NotFiniteError("The recognizer's output is zero or not finite.")
        return [Embedding(vector, norm) for vector, norm in zip(vectors, norms.tolist(), strict=True)]
