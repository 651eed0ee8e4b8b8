"""Two ways to run a model are held against each other, and what differs is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from jetface.domain import Detections
from jetface.judging.agreement import FP16, compare_detections, compare_embeddings

ROWS = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)


def faces(*boxes: tuple[float, ...], scores: tuple[float, ...] | None = None) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(count, 4),
        np.array(scores or [0.9] * count, np.float32),
        np.zeros((count, 5, 2), np.float32),
    )


class TestEmbeddings:
    def test_agree_with_themselves_at_any_length(self) -> None:
        agreement = compare_embeddings(ROWS, ROWS * 7)
        assert agreement.num_compared == 6
        assert agreement.worst_cosine == pytest.approx(1)
        assert agreement.fault(FP16) is None

    def test_mean_and_worst_are_told_apart(self) -> None:
        turned = ROWS.copy()
        turned[2] = -turned[2]
        agreement = compare_embeddings(ROWS, turned)
        assert agreement.worst_cosine == pytest.approx(-1)
        assert agreement.mean_cosine == pytest.approx(4 / 6)
        assert agreement.fault(FP16) == "an embedding has a cosine of -1.00000, less than 0.999"

    def test_a_mean_that_is_missed_is_told_where_none_is_too_far(self) -> None:
        agreement = replace(compare_embeddings(ROWS, ROWS), mean_cosine=0.9993, worst_cosine=0.9992)
        assert agreement.fault(FP16) == "embeddings have a mean cosine of 0.99930, less than 0.9995"

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
    def test_a_row_that_is_no_embedding_is_the_worst_there_is(self, value: float) -> None:
        spoilt = ROWS.copy()
        spoilt[4] = value
        agreement = compare_embeddings(ROWS, spoilt)
        assert agreement.worst_cosine == -1
        assert agreement.fault(FP16)

    def test_nothing_to_compare_is_a_fault(self) -> None:
        agreement = compare_embeddings(ROWS[:0], ROWS[:0])
        assert agreement.fault(FP16) == "there was no face to compare embeddings of"

    def test_other_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\[5, 512\].*\[6, 512\]"):
            compare_embeddings(ROWS, ROWS[:5])

    @given(arrays.arrays(np.float32, (3, 4)), arrays.arrays(np.float32, (3, 4)))
    def test_any_numbers_have_a_finite_answer(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
        agreement = compare_embeddings(first, second)
        assert -1 <= agreement.worst_cosine <= agreement.mean_cosine <= 1 or np.isclose(
            agreement.worst_cosine, agreement.mean_cosine
        )


class TestDetections:
    def test_agree_with_themselves_in_any_order(self) -> None:
        first = faces((0, 0, 50, 60), (100, 0, 180, 90))
        agreement = compare_detections([first], [first.take(slice(None, None, -1))])
        assert (agreement.found_by_both, agreement.only_one, agreement.worst_iou) == (2, 0, 1)
        assert agreement.fault(FP16) is None

    def test_a_box_that_moved_is_told(self) -> None:
        agreement = compare_detections([faces((0, 0, 100, 100))], [faces((0, 0, 100, 90))])
        assert agreement.worst_iou == pytest.approx(0.9)
        assert agreement.fault(FP16) == "two boxes of one face overlap at IoU 0.9000, less than 0.98"

    def test_a_face_that_one_side_lacks_is_told_whichever_it_is(self) -> None:
        both, one = faces((0, 0, 50, 50), (200, 0, 250, 50)), faces((0, 0, 50, 50))
        for agreement in (compare_detections([both], [one]), compare_detections([one], [both])):
            assert (agreement.found_by_both, agreement.only_one) == (1, 1)
            assert agreement.fault(FP16) == "1 boxes are found by one side only, 1 by both"

    def test_boxes_far_apart_are_two_faces(self) -> None:
        agreement = compare_detections([faces((0, 0, 50, 50))], [faces((30, 0, 80, 50))])
        assert (agreement.found_by_both, agreement.only_one, agreement.worst_iou) == (0, 2, 0)

    def test_a_face_is_paired_once_and_with_the_nearest(self) -> None:
        first = faces((0, 0, 100, 100))
        agreement = compare_detections([first], [faces((0, 30, 100, 130), (0, -25, 100, 75))])
        assert (agreement.found_by_both, agreement.only_one) == (1, 1)
        assert agreement.worst_iou == pytest.approx(0.6)

    def test_which_of_two_anchors_with_one_score_is_kept_makes_no_difference(self) -> None:
        """Given both, that is: their boxes differ, and rounding decides."""
        boxes = ((0, 0, 100, 100), (0, 0, 100, 90))
        first, second = faces(*boxes, scores=(0.801, 0.8)), faces(*boxes, scores=(0.8, 0.801))
        agreement = compare_detections([first], [second])
        assert (agreement.found_by_both, agreement.only_one, agreement.worst_iou) == (1, 0, 1)
        suppressed = compare_detections([first.take(slice(0, 1))], [second.take(slice(1, 2))])
        assert suppressed.worst_iou == pytest.approx(0.9)
        kept_by_far = compare_detections([faces(*boxes, scores=(0.9, 0.8))], [faces(*boxes, scores=(0.8, 0.9))])
        assert kept_by_far.worst_iou == pytest.approx(0.9)

    def test_what_rounding_moves_over_the_threshold_is_no_difference(self) -> None:
        """0.501 and 0.499 lie on two sides of 0.5, and 0.47 is below it on both: they count once, and not at all."""
        first = faces((0, 0, 50, 50), (200, 0, 250, 50), scores=(0.501, 0.47))
        second = faces((0, 0, 50, 50), scores=(0.499,))
        agreement = compare_detections([first], [second], score_threshold=0.5)
        assert (agreement.found_by_both, agreement.only_one) == (1, 0)

    def test_pictures_keep_apart(self) -> None:
        first, second = faces((0, 0, 50, 50)), faces((200, 0, 250, 50))
        assert compare_detections([first, second], [second, first]).only_one == 4
        with pytest.raises(ValueError, match="zip"):
            compare_detections([first, second], [first])

    def test_nothing_found_by_either_is_a_fault(self) -> None:
        agreement = compare_detections([Detections.empty()], [Detections.empty()])
        assert agreement.fault(FP16) == "there was nothing to compare boxes of"
