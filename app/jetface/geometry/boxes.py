"""Boxes: overlap, suppression, order, and the merging of two looks at one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from jetface.domain import Boxes, Detections, Scores

IOU_THRESHOLD = 0.4
"""Two detections that overlap more are one face. Source: insightface `SCRFD.nms_thresh`."""

LEAST_SIDE_PX = 2.0
"""Shortest side of a box, within the picture, that may hold a face. Those of detectors at 0.3 have 9; at thresholds
near 0 they are as small as this, or lie beside the picture."""

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


def are_seen(boxes: Boxes, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (N,) whether a face may be seen in boxes: whether `LEAST_SIDE_PX` of both sides lie within the picture."""
    height, width = image_hw
    shown = np.minimum(boxes[:, 2:], (width, height)) - np.maximum(boxes[:, :2], 0)
    return np.asarray((shown >= LEAST_SIDE_PX).all(axis=1), np.bool_)


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


FINER_LOOK_SHARE = np.float32(0.65)
"""Least share of a coarse look's score at which the box and landmarks of the finer look are the better ones. Measured
with det_500m: docs/adr/0017-one-face-one-answer.md."""

_PART_SHARE = 0.4
"""Least share of a box that lies within another one for it to be a part of that face."""

_OWN_FACE_SCORE = np.float32(0.6)
"""Least score of a face within a better one that another look alone sees. Measured: parts of a face reach 0.56, 99 of
100 faces on cards held before one have 0.68 (docs/adr/0017-one-face-one-answer.md)."""


def merge_looks(finer: Detections, coarser: Detections) -> Detections:
    """Join what two looks at one picture found, on a large and on a small canvas: each face once, by its better score.

    SCRFD misses faces that fill its canvas; on a small canvas it sees them, but less precisely. Greedy, as suppression
    is: faces are looked at in order of their scores, and of two looks

    - boxes that overlap by more than `IOU_THRESHOLD` are one face. It keeps the better score; box and landmarks are
      those of the finer look, unless its score is below `FINER_LOOK_SHARE` of the coarser one's: then it saw a part.
    - a box within a larger one of a better score is a face of its own (one on a card before the chin), unless its score
      says that it is a part: below `_OWN_FACE_SCORE`.

    So nothing depends on faces of a lesser score, but for those of the finer look within `FINER_LOOK_SHARE`. Where
    `finer` holds all from that share of a threshold, and `coarser` all from the threshold, the faces that reach the
    threshold are those that any lower one gives, with the same values.

    Args:
        finer: Faces of the look at the larger canvas, picture pixels, overlaps suppressed, best first.
        coarser: Those of the look at the smaller one, the same pixels and order.

    Returns:
        Both, best score first, ties with the finer look's first.
    """
    if len(coarser) == 0:
        return finer
    if len(finer) == 0:
        return coarser
    overlaps = iou_matrix(coarser.boxes, finer.boxes)
    scores = finer.scores.copy()
    is_kept = np.ones(len(finer), np.bool_)
    added: list[int] = []
    for index, score in enumerate(coarser.scores):
        is_same = overlaps[index] > IOU_THRESHOLD
        is_better = scores >= score
        if (is_same & is_better & is_kept).any():
            continue
        # A face that has a better score by now is another coarse face's: it is not replaced.
        is_twin = is_same & ~is_better & is_kept & (scores >= FINER_LOOK_SHARE * score)
        box = coarser.boxes[index : index + 1]
        if score < _OWN_FACE_SCORE and (_are_parts(box, finer.boxes)[0] & is_better & is_kept).any():
            continue
        # What else is the same face goes: the finer look may have found it twice.
        if is_twin.any():
            twin = np.argmax(np.where(is_twin, overlaps[index], 0))
            is_kept &= is_better | ~is_same
            is_kept[twin], scores[twin] = True, score
        else:
            is_part = _are_parts(finer.boxes, box)[:, 0] & (finer.scores < _OWN_FACE_SCORE)
            is_kept &= is_better | ~(is_same | is_part)
            added.append(index)
    merged = replace(finer, scores=scores)
    if not is_kept.all():
        merged = merged.take(is_kept)
    if added:
        merged = Detections.concatenate([merged, coarser.take(np.array(added, np.intp))])
    return merged.take(np.argsort(-merged.scores, kind="stable"))


def _are_parts(boxes: Boxes, wholes: Boxes) -> NDArray[np.bool_]:
    """Return (N, M) whether each of (N, 4) boxes is smaller than each of (M, 4) others and largely within it."""
    areas = box_areas(boxes)[:, None]
    are_parts: NDArray[np.bool_] = (intersection_matrix(boxes, wholes) > _PART_SHARE * areas) & (
        areas < box_areas(wholes)
    )
    return are_parts
