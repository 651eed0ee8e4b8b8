"""The `genderage` family: aligned crops to gender and age."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jetface.domain import GenderAge
from jetface.models.families.rows import RowHead

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
