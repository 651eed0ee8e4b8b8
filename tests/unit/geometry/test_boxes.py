"""Overlap, suppression and merging, against what they are by definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jetface.domain import Detections
from jetface.geometry.boxes import (
    FINER_LOOK_SHARE,
    MAX_CANDIDATES,
    box_areas,
    intersection_matrix,
    iou_matrix,
    keep_apart,
    keep_apart_in_groups,
    largest_first,
    merge_looks,
    suppress_overlaps,
)

THRESHOLDS = [0.0, 0.1017, 0.3533, 0.4011, 0.7007, 1.0]
"""None between 0 and 1 that boxes of small whole sides reach exactly: OpenCV rounds to float32 before it compares."""


@st.composite
def box_arrays(draw: st.DrawFn, min_side_px: int = 0) -> np.ndarray:
    """(N, 4) boxes on a coarse grid, so that equal, nested and touching ones are common."""
    num = draw(st.integers(0, 25))
    corners = draw(npst.arrays(np.int64, (num, 2), elements=st.integers(-5, 20)))
    sides = draw(npst.arrays(np.int64, (num, 2), elements=st.integers(min_side_px, 12)))
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def naive_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Shared over joint area of two boxes."""
    width = max(0.0, float(min(a[2], b[2]) - max(a[0], b[0])))
    height = max(0.0, float(min(a[3], b[3]) - max(a[1], b[1])))
    shared = width * height
    joint = float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])) - shared
    return shared / joint if joint > 0 else 0.0


def naive_suppression(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float) -> list[int]:
    """The greedy rule, word by word."""
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda position: -scores[position]):
        if all(naive_iou(boxes[index], boxes[better]) <= iou_threshold for better in kept):
            kept.append(index)
    return kept


@given(a=box_arrays(), b=box_arrays())
def test_iou_is_symmetric_and_in_range(a: np.ndarray, b: np.ndarray) -> None:
    """IoU lies in [0, 1], does not depend on the order of its arguments, and is what it is by definition."""
    overlaps = iou_matrix(a, b)
    assert overlaps.shape == (len(a), len(b))
    assert ((overlaps >= 0) & (overlaps <= 1)).all()
    np.testing.assert_array_equal(overlaps, iou_matrix(b, a).T)
    expected = np.array([[naive_iou(x, y) for y in b] for x in a], np.float32).reshape(len(a), len(b))
    np.testing.assert_allclose(overlaps, expected, rtol=1e-6)


@given(boxes=box_arrays(min_side_px=1))
def test_a_box_is_equal_to_itself(boxes: np.ndarray) -> None:
    """IoU of a box with itself is 1."""
    np.testing.assert_array_equal(np.diag(iou_matrix(boxes, boxes)), np.ones(len(boxes)))


@given(data=st.data(), boxes=box_arrays(min_side_px=1), iou_threshold=st.sampled_from(THRESHOLDS))
def test_suppression_is_the_greedy_rule(data: st.DataObject, boxes: np.ndarray, iou_threshold: float) -> None:
    """The same boxes in the same order as the naive loop, ties in input order, scores of 0 and 1 included."""
    scores = data.draw(npst.arrays(np.float32, len(boxes), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])))
    kept = suppress_overlaps(boxes, scores, iou_threshold=iou_threshold)
    assert kept.tolist() == naive_suppression(boxes, scores, iou_threshold)
    assert kept.dtype == np.intp


@given(boxes=box_arrays())
def test_suppression_takes_boxes_without_area(boxes: np.ndarray) -> None:
    """Lines and points are no error."""
    kept = suppress_overlaps(boxes, np.linspace(1, 0, len(boxes), dtype=np.float32))
    assert len(set(kept.tolist())) == len(kept) <= len(boxes)


@given(
    boxes=box_arrays(min_side_px=1),
    cuts=st.lists(st.integers(0, 25), max_size=6),
    iou_threshold=st.sampled_from(THRESHOLDS),
)
def test_groups_are_suppressed_as_if_alone(boxes: np.ndarray, cuts: list[int], iou_threshold: float) -> None:
    ends = [0, *sorted(min(cut, len(boxes)) for cut in cuts), len(boxes)]
    groups = list(itertools.pairwise(ends))
    alone = [
        start + row for start, stop in groups for row in keep_apart(boxes[start:stop], iou_threshold=iou_threshold)
    ]
    assert keep_apart_in_groups(boxes, groups, iou_threshold=iou_threshold) == alone


def test_many_boxes_are_suppressed_group_by_group() -> None:
    boxes = np.tile(np.array([[0, 0, 9, 9], [1, 1, 9, 9]], np.float32), (200, 1))
    assert keep_apart_in_groups(boxes, [(0, 200), (200, 300)]) == [0, 200]


def test_suppression_is_bounded() -> None:
    """Of more than `MAX_CANDIDATES` boxes apart from each other only the best are kept."""
    count = MAX_CANDIDATES + 500
    left = np.arange(count, dtype=np.float32) * 2
    boxes = np.stack([left, np.zeros_like(left), left + 1, np.ones_like(left)], axis=1)
    scores = np.linspace(0, 1, count, dtype=np.float32)
    kept = suppress_overlaps(boxes, scores)
    np.testing.assert_array_equal(kept, np.arange(count - 1, 499, -1))


def test_nothing_in_nothing_out() -> None:
    """No box gives no index."""
    empty = np.empty((0, 4), np.float32)
    kept = suppress_overlaps(empty, np.empty(0, np.float32))
    assert kept.shape == (0,)
    assert kept.dtype == np.intp
    assert largest_first(empty).shape == (0,)
    assert iou_matrix(empty, np.ones((3, 4), np.float32)).shape == (0, 3)
    assert box_areas(empty).shape == (0,)


def test_largest_first_keeps_ties_in_order() -> None:
    """By area, not by width; equal areas stay as they came."""
    boxes = np.array([[0, 0, 2, 2], [0, 0, 10, 1], [5, 5, 7, 7], [0, 0, 4, 4]], np.float32)
    assert largest_first(boxes).tolist() == [3, 1, 0, 2]


def test_corners_in_the_wrong_order_have_no_area() -> None:
    """Two negative sides do not make a positive area."""
    assert box_areas(np.array([[5, 5, 1, 1]], np.float32)).tolist() == [0]


def found(*rows: tuple[float, float, float, float, float]) -> Detections:
    """Detections of `x1, y1, x2, y2, score` rows; landmarks carry the row's number."""
    values = np.array(rows, np.float32).reshape(-1, 5)
    landmarks = np.broadcast_to(np.arange(len(rows), dtype=np.float32)[:, None, None], (len(rows), 5, 2))
    return Detections(values[:, :4], values[:, 4], landmarks)


def test_the_second_look_adds_what_the_first_missed() -> None:
    """A large face beside what was found joins it, in order of score."""
    merged = merge_looks(found((0, 0, 10, 10, 0.7), (20, 0, 30, 10, 0.5)), found((100, 100, 300, 300, 0.6)))
    np.testing.assert_allclose(merged.scores, [0.7, 0.6, 0.5])
    np.testing.assert_array_equal(merged.boxes[1], [100, 100, 300, 300])


@pytest.mark.parametrize("coarse_score", [0.5, 0.61, 0.9])
def test_a_face_of_both_looks_is_answered_once_by_the_better_score(coarse_score: float) -> None:
    """Where the finer look is about as sure, box and landmarks are its."""
    finer, coarser = found((0, 0, 100, 100, 0.61)), found((5, 5, 96, 96, coarse_score))
    merged = merge_looks(finer, coarser)
    np.testing.assert_allclose(merged.scores, [max(0.61, coarse_score)])
    np.testing.assert_array_equal(merged.boxes, finer.boxes)


def test_a_face_of_which_the_finer_look_saw_a_part_has_the_coarser_looks_box() -> None:
    coarser = found((5, 5, 96, 96, 0.9))
    merged = merge_looks(found((0, 0, 80, 90, 0.5)), coarser)
    np.testing.assert_array_equal(merged.boxes, coarser.boxes)
    np.testing.assert_array_equal(merged.scores, coarser.scores)


def test_a_face_that_the_finer_look_found_twice_is_answered_once() -> None:
    """Both of its boxes are the coarser look's face."""
    halves, face = found((62, -2, 310, 314, 0.849), (-8, 81, 247, 370, 0.696)), found((10, 15, 292, 355, 0.917))
    assert len(suppress_overlaps(halves.boxes, halves.scores)) == 2
    merged = merge_looks(halves, face)
    np.testing.assert_array_equal(merged.scores, face.scores)
    np.testing.assert_array_equal(merged.boxes, halves.boxes[:1])


@pytest.mark.parametrize("large_score", [0.3, 0.84, 0.99])
@pytest.mark.parametrize("small_score", [0.61, 0.86])
def test_a_face_within_a_larger_one_stays_and_never_removes_it(small_score: float, large_score: float) -> None:
    """One on a card before the chin."""
    card, holder = found((690, 728, 740, 790, small_score)), found((110, 43, 905, 1003, large_score))
    merged = merge_looks(card, holder)
    assert sorted(map(tuple, merged.boxes.tolist())) == sorted(
        map(tuple, [*card.boxes.tolist(), *holder.boxes.tolist()])
    )
    assert (np.diff(merged.scores) <= 0).all()


def test_a_weak_box_within_a_better_face_is_a_part_of_it() -> None:
    """And none within a worse one, nor beside it."""
    eye, face, beside = (62, 490, 107, 550, 0.505), (68, 17, 559, 583, 0.684), (600, 0, 640, 60, 0.45)
    merged = merge_looks(found(eye, beside), found(face))
    np.testing.assert_allclose(merged.scores, [0.684, 0.45])
    assert len(merge_looks(found(eye), found((*face[:4], 0.5)))) == 2


def test_an_empty_look_changes_nothing() -> None:
    """Nothing found on either canvas leaves the other as it is."""
    some = found((0, 0, 10, 10, 0.7))
    assert merge_looks(some, Detections.empty()) is some
    assert merge_looks(Detections.empty(), some) is some


@st.composite
def looks(draw: st.DrawFn) -> Detections:
    """What one look says, overlaps suppressed, best first; landmarks carry the box."""
    boxes = draw(box_arrays(min_side_px=1))
    scores = draw(
        npst.arrays(np.float32, len(boxes), elements=st.sampled_from(np.linspace(0.05, 0.95, 19, dtype="f4").tolist()))
    )
    kept = suppress_overlaps(boxes, scores)
    landmarks = np.broadcast_to(boxes[:, None, :2], (len(boxes), 5, 2)).copy()
    return Detections(boxes, scores, landmarks).take(kept)


def merged_at(finer: Detections, coarser: Detections, threshold: float) -> dict[tuple[float, ...], float]:
    """Score by box of the faces that reach a threshold, each look asked for what `merge_looks` needs."""
    least = np.float32(threshold)
    merged = merge_looks(finer.take(finer.scores >= FINER_LOOK_SHARE * least), coarser.take(coarser.scores >= least))
    assert (np.diff(merged.scores) <= 0).all()
    wanted = merged.take(merged.scores >= least)
    np.testing.assert_array_equal(wanted.boxes[:, :2], wanted.landmarks[:, 0])
    return {tuple(box): score for box, score in zip(wanted.boxes.tolist(), wanted.scores.tolist(), strict=True)}


@given(finer=looks(), coarser=looks(), thresholds=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_threshold_only_ever_cuts_off(
    finer: Detections, coarser: Detections, thresholds: tuple[float, float]
) -> None:
    """What is found at one is found at every lower one, box and score the same; and nothing more reaches it there."""
    low, high = sorted(thresholds)
    at_low = merged_at(finer, coarser, low)
    assert merged_at(finer, coarser, high) == {
        box: score for box, score in at_low.items() if np.float32(score) >= np.float32(high)
    }


@given(finer=looks(), coarser=looks())
def test_every_face_is_answered_once(finer: Detections, coarser: Detections) -> None:
    """A box of either look is in the answer, or is one with a face there of no lesser score, or a weak part of it.

    A face there that both looks saw has two boxes: the one that is answered, and the one of the coarser look, which
    gave its score.
    """
    merged = merge_looks(finer, coarser)
    answered = set(map(tuple, merged.boxes.tolist()))
    both = Detections.concatenate([finer, coarser])
    is_answered_so = np.equal.outer(coarser.scores, merged.scores) & (iou_matrix(coarser.boxes, merged.boxes) > 0.4)
    there = Detections.concatenate([merged, coarser.take(np.flatnonzero(is_answered_so.any(axis=1)))])
    overlaps, shared = iou_matrix(both.boxes, there.boxes), intersection_matrix(both.boxes, there.boxes)
    areas, areas_there = box_areas(both.boxes), box_areas(there.boxes)
    for row in range(len(both)):
        is_no_worse = there.scores >= both.scores[row]
        is_weak_part = (both.scores[row] < 0.6) & (shared[row] > 0.4 * areas[row]) & (areas[row] < areas_there)
        # Where the overlap is the threshold, rounding decides: see `suppress_overlaps`.
        is_same = overlaps[row] > 0.4 - 1e-6
        assert tuple(both.boxes[row].tolist()) in answered or (is_no_worse & (is_same | is_weak_part)).any()
    assert set(merged.scores.tolist()) <= set(both.scores.tolist())
    is_finer = [tuple(box) in set(map(tuple, finer.boxes.tolist())) for box in merged.boxes.tolist()]
    of_two_looks = np.not_equal.outer(is_finer, is_finer)
    assert not (of_two_looks & (iou_matrix(merged.boxes, merged.boxes) > 0.4)).any()


def test_what_the_finer_look_found_twice_is_answered_once() -> None:
    """By the box that overlaps most of those that count, and the better score; the other one goes with it."""
    merged = merge_looks(found((9, 7, 13, 11, 0.2), (7, 7, 11, 11, 0.05)), found((7, 7, 12, 12, 0.25)))
    assert merged.boxes.tolist() == [[9, 7, 13, 11]]
    assert merged.scores.tolist() == [0.25]


@given(finer=looks(), coarser=looks())
def test_no_smaller_face_removes_a_larger_one(finer: Detections, coarser: Detections) -> None:
    """Only one that is the same face does."""
    merged = merge_looks(finer, coarser)
    answered = set(map(tuple, merged.boxes.tolist()))
    both = Detections.concatenate([finer, coarser])
    areas = box_areas(both.boxes)
    is_same = iou_matrix(both.boxes, both.boxes) > 0.4
    for row in range(len(both)):
        is_within_larger = intersection_matrix(both.boxes[row : row + 1], both.boxes)[0][areas > areas[row]].any()
        if is_same[row].sum() == 1 and not is_within_larger:
            assert tuple(both.boxes[row].tolist()) in answered
