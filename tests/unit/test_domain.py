"""Values of the domain."""

from __future__ import annotations

import numpy as np

from jetface.domain import Detections, PictureResult, StageTimes


def _detections(count: int) -> Detections:
    rows = np.arange(count, dtype=np.float32)
    return Detections(
        boxes=np.stack([rows, rows, rows + 10, rows + 10], axis=1),
        scores=np.asarray(1 - rows / 10, np.float32),
        landmarks=np.broadcast_to(rows[:, None, None], (count, 5, 2)).copy(),
    )


class TestDetections:
    """Rows of three arrays that travel together."""

    def test_empty_keeps_the_shapes(self) -> None:
        """No face is three empty arrays of the right rank, so that callers need no special case."""
        empty = Detections.empty()
        assert len(empty) == 0
        assert empty.boxes.shape == (0, 4)
        assert empty.landmarks.shape == (0, 5, 2)

    def test_take_moves_rows_together(self) -> None:
        """Row i of every array stays the same face whichever way faces are chosen."""
        faces = _detections(4)
        for indices in (np.array([2, 0]), np.array([True, False, True, False]), slice(1, 3)):
            taken = faces.take(indices)
            np.testing.assert_array_equal(taken.boxes[:, 0], taken.landmarks[:, 0, 0])
            np.testing.assert_allclose(taken.scores, 1 - taken.boxes[:, 0] / 10)

    def test_concatenate_keeps_order(self) -> None:
        """Parts follow one another; nothing to join is no face."""
        joined = Detections.concatenate([_detections(2), Detections.empty(), _detections(1)])
        np.testing.assert_array_equal(joined.boxes[:, 0], [0, 1, 0])
        assert len(Detections.concatenate([])) == 0


def test_stage_times_add_up() -> None:
    """The total is the sum of the stages, queueing included."""
    times = StageTimes(decode_s=1, queue_s=2, detect_s=4, align_s=8, recognize_s=16)
    assert times.total_s == 31


def test_a_picture_without_faces_is_no_error() -> None:
    """No face found is an empty result."""
    result = PictureResult(image_index=3)
    assert result.faces == ()
    assert result.error is None
