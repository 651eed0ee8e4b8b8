"""Boxes: overlap, suppression, order, and the merging of two looks at one picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from app.domain import Boxes, Detections, Scores

IOU_THRESHOLD = 0.4
"""Two detections that overlap more are one face. Source: insightface `SCRFD.nms_thresh`."""

MAX_CANDIDATES = 5000
"""Most detections that enter suppression, best scores first. Suppression costs up to their square, 22 ms for 5000 on
one core; a 640x640 canvas has 16800 anchors, and a threshold of 0 lets them all through."""

_FEW_BOXES = 256
"""Boxes of several canvases that are suppressed in one call: 0.02 ms at most."""


def box_areas(boxes: Boxes) -> NDArray[np.float32]:
    """Return (N,) areas of (N, 4) boxes, px²; 0 for a box whose corners are in the wrong order."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas: NDArray[np.float32] = sides[:, 0] * sides[:, 1]
    return areas


def intersection_matrix(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Return (N, M) areas, px², that (N, 4) and (M, 4) boxes share."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(high - low, 0)
    areas: NDArray[np.float32] = sides[..., 0] * sides[..., 1]
    return areas


def iou_matrix(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Return how much boxes overlap, pair by pair: shared area over joint area.

    Args:
        a: (N, 4) float32.
        b: (M, 4) float32, the same picture's pixels.

    Returns:
        (N, M) float32 in [0, 1]; 0 where both boxes are without area.
    """
    shared = intersection_matrix(a, b)
    joint = box_areas(a)[:, None] + box_areas(b)[None, :] - shared
    overlaps: NDArray[np.float32] = np.divide(shared, joint, out=np.zeros_like(shared), where=joint > 0)
    return overlaps


def suppress_overlaps(boxes: Boxes, scores: Scores, *, iou_threshold: float = IOU_THRESHOLD) -> NDArray[np.intp]:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4) float32, finite. Boxes without area count as equal to each other.
        scores: (N,) float32, finite.
        iou_threshold: Drop a box whose IoU with a better kept box exceeds this; [0, 1]. Rounding (1e-7) decides where
            both are equal.

    Returns:
        (K,) positions in `boxes`, best first, ties in input order; empty in, empty out. Only the `MAX_CANDIDATES`
        best are looked at.

    Source: Neubeck & Van Gool 2006. Continuous areas (no `+ 1`), unlike insightface `SCRFD.nms`.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    return order[np.array(keep_apart(boxes[order], iou_threshold=iou_threshold), np.intp)]


def keep_apart(boxes: Boxes, *, iou_threshold: float = IOU_THRESHOLD) -> list[int]:
    """Suppress as `suppress_overlaps` does among boxes that are in order already, best first; all of them.

    Returns:
        Positions of those that are kept, ascending.

    Source: OpenCV, without the interpreter lock; 5 times as fast as NumPy for 600 boxes with 100 faces (0.2 ms), and a
    few boxes (4 us) take it no longer than plain Python.
    """
    if len(boxes) < 2:
        return list(range(len(boxes)))
    corner_and_sides = boxes.astype(np.float64)
    corner_and_sides[:, 2:] = np.maximum(corner_and_sides[:, 2:] - corner_and_sides[:, :2], 0)
    # Ranks stand in for scores: OpenCV drops scores that are not above its threshold, and 0 is a score.
    kept = cv2.dnn.NMSBoxes(corner_and_sides.tolist(), list(range(len(boxes), 0, -1)), 0.0, iou_threshold)
    positions: list[int] = np.asarray(kept, np.intp).ravel().tolist()
    return positions


def keep_apart_in_groups(
    boxes: Boxes, groups: Sequence[tuple[int, int]], *, iou_threshold: float = IOU_THRESHOLD
) -> list[int]:
    """Suppress as `keep_apart` does within each group of rows; boxes of two groups never touch.

    Few boxes are moved so far apart that one call serves all groups: each lets go of the interpreter lock, and has to
    get it back. Many are looked at group by group, as the work grows with the square of their number.

    Args:
        boxes: (N, 4) finite.
        groups: First row and the row after the last of each, ascending; rows of no group are dropped.
        iou_threshold: As for `suppress_overlaps`.

    Returns:
        Positions of those that are kept, ascending.
    """
    crowded = [(start, stop) for start, stop in groups if stop - start > 1]
    num_boxes = sum([stop - start for start, stop in crowded])
    if len(crowded) < 2 or num_boxes > _FEW_BOXES:
        return [
            start + index
            for start, stop in groups
            for index in keep_apart(boxes[start:stop], iou_threshold=iou_threshold)
        ]
    rows = np.concatenate([np.arange(start, stop) for start, stop in crowded])
    numbers = np.repeat(np.arange(len(crowded), dtype=np.float64), [stop - start for start, stop in crowded])
    apart = boxes[rows].astype(np.float64)
    apart += (numbers * (apart.max() - apart.min() + 1.0))[:, None]
    alone = [start for start, stop in groups if stop - start == 1]
    return sorted(alone + rows[keep_apart(apart, iou_threshold=iou_threshold)].tolist())


def largest_first(boxes: Boxes) -> NDArray[np.intp]:
    """Return the (N,) positions of boxes by area, largest first; ties keep input order."""
    return np.argsort(-box_areas(boxes), kind="stable")


def merge_looks(full: Detections, small: Detections, *, max_shared: float = 0.4) -> Detections:
    """Add what only a second look, on a small canvas, has found.

    SCRFD misses faces that fill its canvas; on a small canvas it sees them. What the first look has found is never
    replaced or removed, so a second look cannot make boxes or landmarks coarser.

    Args:
        full: Faces of the first look, picture pixels.
        small: Faces of the second look, the same pixels.
        max_shared: Add a face only if no face of the first look shares more than this part of the smaller of the two
            boxes; [0, 1]. Not IoU: a box within another one is the same face or a part of it.

    Returns:
        Both, best score first, ties in the order of the first look.
    """
    if len(small) == 0:
        return full
    if len(full) == 0:
        return small
    smaller = np.minimum(box_areas(small.boxes)[:, None], box_areas(full.boxes)[None, :])
    is_new = (intersection_matrix(small.boxes, full.boxes) <= max_shared * smaller).all(axis=1)
    if not is_new.any():
        return full
    both = Detections.concatenate([full, small.take(np.flatnonzero(is_new))])
    return both.take(np.argsort(-both.scores, kind="stable"))
