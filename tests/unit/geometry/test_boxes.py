"""Overlap, suppression and merging, against what they are by definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from app.domain import Detections
from app.geometry.boxes import (
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


@pytest.mark.parametrize(
    "second",
    [(0, 0, 100, 100, 0.99), (5, 5, 96, 96, 0.99), (30, 30, 60, 60, 0.99), (-50, -50, 150, 150, 0.99)],
    ids=["same", "shifted", "within", "around"],
)
def test_the_first_look_is_never_replaced(second: tuple[float, float, float, float, float]) -> None:
    """Whatever the second look's score, what overlaps, lies within or around a found face is that face."""
    first = found((0, 0, 100, 100, 0.61))
    assert merge_looks(first, found(second)) is first


def test_an_empty_look_changes_nothing() -> None:
    """Nothing found on either canvas leaves the other as it is."""
    some = found((0, 0, 10, 10, 0.7))
    assert merge_looks(some, Detections.empty()) is some
    assert merge_looks(Detections.empty(), some) is some


@given(first=box_arrays(min_side_px=1), second=box_arrays(min_side_px=1))
def test_merging_keeps_all_of_the_first_look(first: np.ndarray, second: np.ndarray) -> None:
    """Every first-look box is in the answer, sorted by score; every added one is apart from all of them."""
    full = Detections(
        first, np.linspace(0.9, 0.1, len(first), dtype=np.float32), np.zeros((len(first), 5, 2), np.float32)
    )
    small = Detections(
        second, np.linspace(0.95, 0.2, len(second), dtype=np.float32), np.ones((len(second), 5, 2), np.float32)
    )
    merged = merge_looks(full, small)
    assert (np.diff(merged.scores) <= 0).all()
    is_added = merged.landmarks[:, 0, 0] == 1
    np.testing.assert_array_equal(merged.boxes[~is_added], first)
    added = merged.boxes[is_added]
    smaller = np.minimum(box_areas(added)[:, None], box_areas(first)[None, :])
    assert (intersection_matrix(added, first) <= 0.4 * smaller + 1e-3).all()
