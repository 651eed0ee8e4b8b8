"""Heads of models that answer one row of numbers for each picture of one size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from jetface.domain import Batch, Image
from jetface.errors import InferenceError, ModelContractError, NotFiniteError
from jetface.geometry.alignment import CROP_SIDE_PX
from jetface.graphs.pixels import to_batch
from jetface.registry import ModelSpec
from jetface.runtimes.backend import Backend

Result = TypeVar("Result")


class RowHead(ABC, Generic[Result]):
    """Runs a graph on pictures; a family adds what a row means.

    Stateless; as thread-safe as the backend it is given.
    """

    row_length: int
    """Numbers the graph answers each picture with; a family whose architecture fixes them says how many."""

    def __init__(self, spec: ModelSpec, *, takes_pixels: bool = False) -> None:
        """Take the size and the normalisation from a registry entry.

        Args:
            spec: The entry.
            takes_pixels: The graph normalises pixels itself.

        Raises:
            ModelContractError: The entry cannot be one of this family.
        """
        if fault := self.fault(spec):
            raise ModelContractError(f"{spec.name}: {fault}.")
        self.spec = spec
        self.takes_pixels = takes_pixels
        self.input_hw = (spec.input.height_px, spec.input.width_px)

    @classmethod
    def fault(cls, spec: ModelSpec) -> str | None:
        """Say why an entry's input cannot be a picture of a face; None where it can."""
        input_hw = (spec.input.height_px, spec.input.width_px)
        if not all(input_hw):
            return "input: its size is needed"
        if spec.box_enlargement is None and input_hw != (CROP_SIDE_PX, CROP_SIDE_PX):
            return (
                f"input: an aligned crop is {CROP_SIDE_PX}x{CROP_SIDE_PX} pixels; a picture of another size is cut out "
                "of the face's surroundings, and box_enlargement says how much of them it shows"
            )
        return None

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
