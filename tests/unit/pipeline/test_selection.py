"""Which faces a request gets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.domain import Detections, ExtractOptions
from jetface.pipeline.extract import select_faces


def detections(*widths_px: float) -> Detections:
    """Square faces of these widths, best score first."""
    boxes = np.array([[10, 20, 10 + width, 20 + width] for width in widths_px], np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.6, len(widths_px), dtype=np.float32)
    return Detections(boxes, scores, np.zeros((len(widths_px), 5, 2), np.float32))


def widths(kept: Detections) -> list[float]:
    """Widths in the answer's order."""
    return [float(box[2] - box[0]) for box in kept.boxes]


def test_without_limits_every_face_stays_in_order_of_score() -> None:
    """The default keeps what the detector said."""
    found = detections(30, 50, 40)
    assert select_faces(found, ExtractOptions(score_threshold=0.5), max_faces=10) is found


def test_limit_faces_keeps_the_largest_first() -> None:
    """As InsightFace-REST orders them."""
    options = ExtractOptions(score_threshold=0.5, limit_faces=2)
    assert widths(select_faces(detections(30, 50, 40), options, max_faces=10)) == [50, 40]


def test_narrow_faces_are_dropped_before_the_limit_counts() -> None:
    """A face below the least width takes no place."""
    options = ExtractOptions(score_threshold=0.5, limit_faces=3, min_face_width_px=35)
    assert widths(select_faces(detections(30, 50, 40), options, max_faces=10)) == [50, 40]


def test_the_server_limit_keeps_the_best_scores() -> None:
    """MAX_FACES bounds the work whatever the request says."""
    assert widths(select_faces(detections(30, 50, 40), ExtractOptions(score_threshold=0.5), max_faces=1)) == [30]


def test_no_face_stays_no_face() -> None:
    """An empty list is not an error."""
    options = ExtractOptions(score_threshold=0.5, limit_faces=3, min_face_width_px=10)
    assert len(select_faces(Detections.empty(), options, max_faces=5)) == 0


@given(
    sizes=st.lists(st.floats(1, 500, width=32), max_size=30),
    limit=st.integers(0, 40),
    least=st.floats(0, 500, width=32),
    max_faces=st.integers(1, 40),
)
def test_what_is_kept_obeys_every_limit(sizes: list[float], limit: int, least: float, max_faces: int) -> None:
    """For any faces and any limits."""
    found = detections(*sizes)
    options = ExtractOptions(score_threshold=0.5, limit_faces=limit, min_face_width_px=least)
    kept = select_faces(found, options, max_faces=max_faces)
    assert len(kept) <= max_faces
    assert limit == 0 or len(kept) <= limit
    assert all(width >= least or width == pytest.approx(least) for width in widths(kept))
    assert set(map(tuple, kept.boxes.tolist())) <= set(map(tuple, found.boxes.tolist()))
    if limit:
        assert widths(kept) == sorted(widths(kept), reverse=True)
