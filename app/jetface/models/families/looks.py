"""All looks at one picture as one item: they run one after the other on one lane.

Were each look an item of its own, the small one could start first on another lane, and the large one would find company
where it should have had all cores to itself (docs/adr/0007-lone-requests.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from jetface.backends.protocol import Backend
from jetface.domain import Detections
from jetface.models.families.canvases import DetectorItem
from jetface.models.lanes import Head

Looks: TypeAlias = tuple[DetectorItem, ...]
"""The canvases of one picture, the full one first. Items that run together have the same number of them."""


class LooksHead:
    """Runs a detector on every canvas of some pictures."""

    def __init__(self, detector: Head[DetectorItem, Detections]) -> None:
        self.detector = detector

    def run(self, backend: Backend, items: Sequence[Looks]) -> list[tuple[Detections, ...]]:
        """Detect faces; per picture the answers of its looks, in their order.

        Look by look, so that canvases of one size are neighbours and share runs.
        """
        found = self.detector.run(backend, [look for same in zip(*items, strict=True) for look in same])
        return [tuple(found[index :: len(items)]) for index in range(len(items))]


def canvas_shapes(looks: Looks) -> tuple[tuple[int, ...], ...]:
    """Return what pictures must have in common to run together."""
    return tuple(look.canvas.shape for look in looks)
