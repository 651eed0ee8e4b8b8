"""All looks at one picture as one item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jetface.domain import Detections
from jetface.heads.canvases import DetectorItem, LooksHead, item_key
from jetface.runtimes.backend import Backend
from tests.support.function_backend import FunctionBackend


class Marked:
    """A detector whose one face is as wide as the number in the canvas's first pixel; it notes what it is given."""

    def __init__(self) -> None:
        self.runs: list[list[tuple[int, ...]]] = []

    def run(self, _backend: Backend, items: Sequence[DetectorItem]) -> list[Detections]:
        """Answer each canvas with its mark."""
        self.runs.append([item.canvas.shape[:2] for item in items])
        marks = [float(item.canvas[0, 0, 0]) for item in items]
        score, landmarks = np.array([0.5], np.float32), np.zeros((1, 5, 2), np.float32)
        return [Detections(np.array([[0, 0, mark, 1]], np.float32), score, landmarks) for mark in marks]


def look(mark: int, side: int) -> DetectorItem:
    """A canvas that carries a number."""
    return DetectorItem(canvas=np.full((side, side, 3), mark, np.uint8), score_threshold=0.5)


def test_each_picture_gets_the_answers_of_its_own_looks_and_canvases_of_one_size_are_neighbours() -> None:
    detector, backend = Marked(), FunctionBackend(lambda batch: (batch,))
    found = LooksHead(detector).run(backend, [(look(1, 64), look(2, 32)), (look(3, 64), look(4, 32))])
    assert [[float(faces.boxes[0, 2]) for faces in looks] for looks in found] == [[1, 2], [3, 4]]
    assert detector.runs == [[(64, 64), (64, 64), (32, 32), (32, 32)]]


def test_pictures_share_a_run_when_all_their_canvases_are_of_the_same_sizes() -> None:
    assert item_key((look(1, 64), look(2, 32))) == item_key((look(3, 64), look(4, 32)))
    assert item_key((look(1, 64), look(2, 32))) != item_key((look(1, 64), look(2, 64)))
