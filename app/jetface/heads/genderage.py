"""InsightFace's first gender and age model."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from jetface.geometry.alignment import CROP_SIDE_PX
from jetface.heads.family import Family
from jetface.heads.rows import RowHead
from jetface.registry import InputSpec

_NUM_GENDERS = 2


class GenderAge(TypedDict, total=False):
    """What a model takes a face for."""

    gender: Annotated[int | None, Field(description="0 female, 1 male; null where unknown.")]
    age: Annotated[int | None, Field(description="Years; null where unknown.")]


class GenderAgeHead(RowHead[GenderAge]):
    """Runs InsightFace's first gender and age model.

    A row is two logits of gender (female, male), then for each year of a hundred whether the face is younger or older:
    the age is the number of years it is older than.

    Source: insightface at eda10e8f, gender-age/face_model.py.
    """

    row_length = 202

    def decode(self, rows: NDArray[np.float32]) -> list[GenderAge]:
        """Return gender and age of each row."""
        is_male = rows[:, 1] > rows[:, 0]
        younger, older = rows[:, _NUM_GENDERS::2], rows[:, _NUM_GENDERS + 1 :: 2]
        ages = np.count_nonzero(older > younger, axis=1)
        return [GenderAge(gender=int(male), age=age) for male, age in zip(is_male.tolist(), ages.tolist(), strict=True)]


FAMILY = Family(
    task="gender_age",
    head=GenderAgeHead,
    usual_input=InputSpec(height_px=CROP_SIDE_PX, width_px=CROP_SIDE_PX, mean=0, std=1),
    variable="GA_MODEL",
    answer=GenderAge,
    option="extract_ga",
)
