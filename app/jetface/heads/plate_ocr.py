"""The `plate_ocr` family: the picture of a licence plate to its text, as fast-plate-ocr's models do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from jetface.domain import PlateText
from jetface.errors import InferenceError, ModelContractError
from jetface.graphs.pixels import to_batch
from jetface.heads.family import Family
from jetface.heads.rows import RowHead
from jetface.registry import InputSpec, ModelSpec
from jetface.runtimes.backend import Backend

_MOST_OFF = 0.01
"""How far from 1 the probabilities of a slot may add up, rounding of half precision included."""


class PlateOcr(RowHead[PlateText]):
    """Runs a reader. A picture's row is (slots, characters) probabilities: of each place, which character stands there.

    Source: fast-plate-ocr's `postprocess_output`, MIT: the best character of each slot, pads at the end stripped.
    """

    def __init__(self, spec: ModelSpec, *, takes_pixels: bool = False) -> None:
        """Create a reader for a registry entry; see `RowHead`."""
        super().__init__(spec, takes_pixels=takes_pixels)
        self.row_length = (spec.slots or 0) * len(spec.alphabet or "")

    @classmethod
    def fault(cls, spec: ModelSpec) -> str | None:
        """Refuse an entry whose characters cannot be told apart, or whose pad is none of them."""
        alphabet = spec.alphabet or ""
        if len(set(alphabet)) < len(alphabet):
            return "alphabet: each character once"
        if spec.pad is None or spec.pad not in alphabet:
            return "pad: a character of the alphabet is needed"
        return super().fault(spec)

    @classmethod
    def probe(cls, spec: ModelSpec, backend: Backend, *, takes_pixels: bool = False) -> Self:
        """Create a reader as `RowHead.probe` does; (1, slots, characters) in this order is wanted.

        Raises:
            ModelContractError: The graph's answer is something else.
            InferenceError: The run failed.
        """
        head = super().probe(spec, backend, takes_pixels=takes_pixels)
        grey = np.full((*head.input_hw, 3), 127, np.uint8)
        found = backend.run(to_batch([grey], spec.input, takes_pixels=takes_pixels))[0]
        wanted = (1, spec.slots, len(spec.alphabet or ""))
        if found.shape not in {wanted, (1, head.row_length)}:
            raise ModelContractError(
                f"{spec.name} should answer a picture with {list(wanted)}; found {list(found.shape)}."
            )
        head.decode(found.reshape(1, -1))
        return head

    def decode(self, rows: NDArray[np.float32]) -> list[PlateText]:
        """Take the likeliest character of each slot, up to the last that is no pad.

        Raises:
            InferenceError: The slots are no probabilities.
        """
        alphabet, pad = self.spec.alphabet or "", self.spec.pad or ""
        slots = rows.reshape(len(rows), self.spec.slots or 0, len(alphabet))
        if slots.size and (slots.min() < 0 or np.abs(slots.sum(axis=2) - 1).max() > _MOST_OFF):
            raise InferenceError(f"{self.spec.name} does not answer with probabilities: its graph lacks the softmax.")
        texts = []
        for best, certainty in zip(slots.argmax(axis=2).tolist(), slots.max(axis=2), strict=True):
            text = "".join(alphabet[index] for index in best).rstrip(pad)
            texts.append(PlateText(text, certainty[: len(text)].copy()))
        return texts


FAMILY = Family(
    task="plate_reading",
    head=PlateOcr,
    usual_input=InputSpec(height_px=64, width_px=128, mean=0, std=255),
    needs=frozenset({"alphabet", "slots", "pad", "box_enlargement"}),
    variable="PLATE_OCR_MODEL",
)
