"""Recognizers of the ArcFace kind: a row is an embedding, to be brought to unit length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jetface.domain import Embedding
from jetface.errors import NotFiniteError
from jetface.geometry.alignment import CROP_SIDE_PX
from jetface.geometry.tensors import normalize_rows
from jetface.heads.family import Family
from jetface.heads.rows import RowHead
from jetface.registry import InputSpec, ModelSpec


class Arcface(RowHead[Embedding]):
    """Runs an ArcFace graph on crops."""

    def __init__(self, spec: ModelSpec, *, takes_pixels: bool = False) -> None:
        """Create a recognizer for a registry entry; see `RowHead`."""
        super().__init__(spec, takes_pixels=takes_pixels)
        self.row_length = spec.embedding_length or 0

    @classmethod
    def fault(cls, spec: ModelSpec) -> str | None:
        """Refuse also an entry that leaves the embedding's length open."""
        if spec.embedding_length is None:
            return "embedding_length is needed"
        return super().fault(spec)

    def decode(self, rows: NDArray[np.float32]) -> list[Embedding]:
        """Bring each row to unit length. Vectors are float32, rows of one array a call.

        Raises:
            NotFiniteError: A row is zero, or so long that its length is not finite.
        """
        vectors, norms = normalize_rows(rows)
        if not np.isfinite(norms).all() or not norms.all():
            raise NotFiniteError("The recognizer's output is zero or not finite.")
        return [Embedding(vector, norm) for vector, norm in zip(vectors, norms.tolist(), strict=True)]


FAMILY = Family(
    task="recognition",
    head=Arcface,
    usual_input=InputSpec(height_px=CROP_SIDE_PX, width_px=CROP_SIDE_PX, mean=127.5, std=127.5),
    needs=frozenset({"embedding_length"}),
    takes=frozenset({"match_threshold"}),
    variable="REC_MODEL",
)

SFACE = replace(
    FAMILY,
    usual_input=InputSpec(height_px=CROP_SIDE_PX, width_px=CROP_SIDE_PX, mean=0, std=1),
    is_input_fixed=True,
)
"""SFace wants the crops of ArcFace and answers as it does; its graphs scale pixels themselves. Source:
`FaceRecognizerSF` of OpenCV 5."""
