"""SeetaFace6's mask detector."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from jetface.domain import Float
from jetface.geometry.alignment import CROP_SIDE_PX
from jetface.heads.family import Family
from jetface.heads.rows import RowHead
from jetface.registry import InputSpec


class Mask(TypedDict, total=False):
    """Whether a face wears a mask."""

    mask: bool | None
    mask_probs: Annotated[dict[str, Float] | None, Field(description="Of `mask` and `no_mask`.")]


class MaskHead(RowHead[Mask]):
    """Runs SeetaFace6's mask detector. A row is the probability of a mask and that of none."""

    row_length = 2

    def decode(self, rows: NDArray[np.float32]) -> list[Mask]:
        """Take the first number of each row for the probability of a mask."""
        return [
            Mask(mask=of_mask > 0.5, mask_probs={"mask": np.float32(of_mask), "no_mask": np.float32(1 - of_mask)})
            for of_mask in rows[:, 0].tolist()
        ]


FAMILY = Family(
    task="mask",
    head=MaskHead,
    usual_input=InputSpec(height_px=CROP_SIDE_PX, width_px=CROP_SIDE_PX, mean=0, std=1, channel_order="bgr"),
    variable="MASK_MODEL",
    answer=Mask,
    option="detect_masks",
)
