"""The `minifasnet` family: cut-outs around a face to how likely it is live."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jetface.domain import Liveness, Scores
from jetface.models.families.rows import RowHead

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
