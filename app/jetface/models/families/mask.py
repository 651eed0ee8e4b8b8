"""The `seeta_mask` family: aligned crops to whether a mask is worn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jetface.domain import Mask
from jetface.models.families.rows import RowHead


class MaskHead(RowHead[Mask]):
    """Runs SeetaFace6's mask detector. A row is the probability of a mask and that of none."""

    def decode(self, rows: NDArray[np.float32]) -> list[Mask]:
        """Return the first probability of each row."""
        return [Mask(probability) for probability in rows[:, 0].tolist()]
