"""Heads of models that answer one row of numbers for each picture of one size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from jetface.domain import Batch, Embedding, GenderAge, Image, Liveness, Mask, Scores
from jetface.errors import InferenceError, ModelContractError, NotFiniteError
from jetface.geometry.alignment import CROP_SIDE_PX
from jetface.geometry.tensors import normalize_rows
from jetface.graphs.pixels import to_batch
from jetface.registry import ModelSpec
from jetface.runtimes.backend import Backend

Result = TypeVar("Result")


class RowHead(ABC, Generic[Result]):
    """Runs a graph on pictures; a family adds what a row means.

    Stateless; as thread-safe as the backend it is given.
    """

    def __init__(self, spec: ModelSpec, *, takes_pixels: bool = False) -> None:
        """Take the size, the normalisation and the length of a row from a registry entry.

        Args:
            spec: The entry.
            takes_pixels: The graph normalises pixels itself.

        Raises:
            ModelContractError: The entry leaves the input's size or the length of a row open.
        """
        if not spec.input.height_px or not spec.input.width_px or spec.row_length is None:
            raise ModelContractError(f"{spec.name} names no input size, or no embedding length.")
        self.spec = spec
        self.takes_pixels = takes_pixels
        self.row_length = spec.row_length
        self.input_hw = (spec.input.height_px, spec.input.width_px)

    @classmethod
    def probe(cls, spec: ModelSpec, backend: Backend, *, takes_pixels: bool = False) -> Self:
        """Create a head for the graph in `backend`, checking its answer to one grey picture.

        Args:
            spec: Its registry entry.
            backend: Owned by the calling thread for the duration of the call.
            takes_pixels: The graph normalises pixels itself.

        Raises:
            ModelContractError: The graph's answer is not one row of the entry's length.
            InferenceError: The run failed.
        """
        head = cls(spec, takes_pixels=takes_pixels)
        outputs = backend.run(head._batch([np.full((*head.input_hw, 3), 127, np.uint8)]))
        if len(outputs) != 1 or outputs[0].size != head.row_length or len(outputs[0]) != 1:
            found = ", ".join(str(list(output.shape)) for output in outputs)
            raise ModelContractError(f"{spec.name} should answer a picture with [1, {head.row_length}]; found {found}.")
        return head

    def run(self, backend: Backend, pictures: Sequence[Image]) -> list[Result]:
        """Run the graph on any number of pictures, as many at once as the backend takes.

        Args:
            backend: The loaded graph, owned by the calling thread.
            pictures: (H, W, 3) uint8 BGR of the entry's size.

        Returns:
            What `decode` makes of each, in order.

        Raises:
            InferenceError: The run failed, or its output is of the wrong shape.
            NotFiniteError: Its output is not finite.
        """
        rows = np.empty((len(pictures), self.row_length), np.float32)
        for start in range(0, len(pictures), backend.max_batch_size):
            chunk = pictures[start : start + backend.max_batch_size]
            output = backend.run(self._batch(chunk))[0]
            # Some exports keep trailing axes of length 1: the sizes tell, not the ranks.
            if len(output) != len(chunk) or output.size != len(chunk) * self.row_length:
                raise InferenceError(
                    f"{self.spec.name} answered {len(chunk)} pictures with an output of {list(output.shape)}."
                )
            rows[start : start + len(chunk)] = output.reshape(len(chunk), self.row_length)
        if not np.isfinite(rows).all():
            raise NotFiniteError(f"{self.spec.name} answered with numbers that are not finite.")
        return self.decode(rows)

    @abstractmethod
    def decode(self, rows: NDArray[np.float32]) -> list[Result]:
        """Turn finite (N, L) rows into N results, in order."""

    def _batch(self, pictures: Sequence[Image]) -> Batch:
        return to_batch(pictures, self.spec.input, takes_pixels=self.takes_pixels)


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


_NUM_GENDERS = 2


class GenderAgeHead(RowHead[GenderAge]):
    """Runs InsightFace's first gender and age model.

    A row is two logits of gender (female, male), then for each year of a hundred whether the face is younger or older:
    the age is the number of years it is older than.

    Source: insightface at eda10e8f, gender-age/face_model.py.
    """

    def decode(self, rows: NDArray[np.float32]) -> list[GenderAge]:
        """Return gender and age of each row."""
        is_male = rows[:, 1] > rows[:, 0]
        younger, older = rows[:, _NUM_GENDERS::2], rows[:, _NUM_GENDERS + 1 :: 2]
        ages = np.count_nonzero(older > younger, axis=1)
        return [GenderAge(male, age) for male, age in zip(is_male.tolist(), ages.tolist(), strict=True)]


_LIVE = 1
"""Column of a live face; the others are pictures of one, on paper and on a screen."""


class LivenessHead(RowHead[Scores]):
    """Runs MiniFASNet on cut-outs. A row is the logits of three kinds of faces.

    Source: minivision-ai/Silent-Face-Anti-Spoofing at 11730bcc, test.py.
    """

    def decode(self, rows: NDArray[np.float32]) -> list[Scores]:
        """Return the (3,) probabilities of each row."""
        weights = np.exp(rows - rows.max(axis=1, keepdims=True, initial=-np.inf))
        return list(weights / weights.sum(axis=1, keepdims=True))


def merge_opinions(probabilities: Sequence[Scores]) -> Liveness:
    """Average what one or more models say of one face.

    Args:
        probabilities: At least one, each (3,) as `LivenessHead.decode` returns it.
    """
    mean = np.mean(probabilities, axis=0)
    return Liveness(probability=float(mean[_LIVE]), is_live=int(mean.argmax()) == _LIVE)


class MaskHead(RowHead[Mask]):
    """Runs SeetaFace6's mask detector. A row is the probability of a mask and that of none."""

    def decode(self, rows: NDArray[np.float32]) -> list[Mask]:
        """Return the first probability of each row."""
        return [Mask(probability) for probability in rows[:, 0].tolist()]
