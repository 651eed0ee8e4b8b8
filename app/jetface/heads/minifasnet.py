"""MiniFASNet: whether a face is a person's before the camera and not a picture of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from jetface.domain import Float, Scores
from jetface.geometry.tensors import softmax_rows
from jetface.heads.family import Family
from jetface.heads.rows import RowHead
from jetface.registry import InputSpec

_LIVE = 1
"""Column of a live face; the others are pictures of one, on paper and on a screen."""


class Liveness(TypedDict, total=False):
    """Whether a face is live."""

    live: Annotated[Float | None, Field(description="Probability of a live face; null where unknown.")]
    is_live: Annotated[bool | None, Field(description="Whether that is more likely than any kind of picture.")]


class LivenessHead(RowHead[Scores]):
    """Runs MiniFASNet on cut-outs. A row is the logits of three kinds of faces.

    Source: minivision-ai/Silent-Face-Anti-Spoofing at 11730bcc, test.py.
    """

    row_length = 3

    def decode(self, rows: NDArray[np.float32]) -> list[Scores]:
        """Return the (3,) probabilities of each row."""
        return list(softmax_rows(rows))


def merge_opinions(probabilities: Sequence[Scores]) -> Liveness:
    """Average what one or more models say of one face.

    Args:
        probabilities: At least one, each (3,) as `LivenessHead.decode` returns it.
    """
    mean = np.mean(probabilities, axis=0)
    return Liveness(live=np.float32(mean[_LIVE]), is_live=int(mean.argmax()) == _LIVE)


FAMILY = Family(
    task="liveness",
    head=LivenessHead,
    usual_input=InputSpec(height_px=80, width_px=80, mean=0, std=1, channel_order="bgr"),
    needs=frozenset({"box_enlargement"}),
    variable="LIVENESS_MODEL",
    answer=Liveness,
    option="detect_liveness",
    merge=merge_opinions,
)
