"""Classifiers of faces: one class of several, named by the registry entry."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self, TypedDict

from jetface.domain import Float
from jetface.errors import InferenceError
from jetface.geometry.alignment import CROP_SIDE_PX
from jetface.geometry.tensors import softmax_rows
from jetface.heads.family import Family
from jetface.heads.rows import RowHead
from jetface.registry import InputSpec, ModelSpec
from jetface.runtimes.backend import Backend

_MOST_OFF = 0.01
"""How far from 1 probabilities may sum up: a graph in half precision is off by 0.002."""


class Classification(TypedDict):
    """Which class a face is of."""

    label: Annotated[str, Field(description="The most likely class.")]
    score: Annotated[Float, Field(description="Its probability.")]
    scores: Annotated[dict[str, Float], Field(description="The probability of each class.")]


class Classifier(RowHead[Classification]):
    """Runs a graph that answers with a number for each class: a logit, or with `activation = "none"` a probability."""

    def __init__(self, spec: ModelSpec, *, takes_pixels: bool = False) -> None:
        """Create a classifier for a registry entry; see `RowHead`."""
        super().__init__(spec, takes_pixels=takes_pixels)
        self.row_length = len(spec.labels)

    @classmethod
    def fault(cls, spec: ModelSpec) -> str | None:
        """Refuse also an entry without two classes that can be told apart."""
        if len(spec.labels) < 2 or len(set(spec.labels)) < len(spec.labels):
            return "labels: two or more are needed, each once"
        return super().fault(spec)

    @classmethod
    def probe(cls, spec: ModelSpec, backend: Backend, *, takes_pixels: bool = False) -> Self:
        """Create a classifier as `RowHead.probe` does; raises InferenceError also where `activation` is wrong."""
        head = super().probe(spec, backend, takes_pixels=takes_pixels)
        head.run(backend, [np.full((*head.input_hw, 3), 127, np.uint8)])
        return head

    def decode(self, rows: NDArray[np.float32]) -> list[Classification]:
        """Name the likeliest class of each row.

        Raises:
            InferenceError: The entry says that rows are probabilities, and they are not.
        """
        if self.spec.activation == "softmax":
            rows = softmax_rows(rows)
        elif len(rows) and (rows.min() < 0 or np.abs(rows.sum(axis=1) - 1).max() > _MOST_OFF):
            raise InferenceError(f'{self.spec.name} does not answer with probabilities: activation = "none" is wrong.')
        labels = self.spec.labels
        return [
            Classification(label=labels[best], score=row[best], scores=dict(zip(labels, row, strict=True)))
            for row, best in zip(rows, rows.argmax(axis=1).tolist(), strict=True)
        ]


FAMILY = Family(
    task="classification",
    head=Classifier,
    usual_input=InputSpec(height_px=CROP_SIDE_PX, width_px=CROP_SIDE_PX, mean=127.5, std=127.5),
    needs=frozenset({"labels"}),
    takes=frozenset({"activation", "box_enlargement"}),
    answer=Classification,
    shown=("label",),
)
