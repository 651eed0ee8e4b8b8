"""Faces whose place the caller knows: landmarks or boxes in, what alignment needs out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jetface.domain import Boxes, Detections, KnownFaces, Landmarks
from jetface.errors import RequestError
from jetface.geometry.alignment import landmarks_fault
from jetface.geometry.boxes import LEAST_SIDE_PX, box_areas, intersection_matrix, iou_matrix
from jetface.models.families.scrfd import place_landmarks

KNOWN_BOX_THRESHOLD = 0.05
"""Detector score at which a face may be the one that the caller says is there. Half as low costs 3 to 13 ms of CPU a
portrait, this 1."""

_LIKELY_FACE = 0.3
"""Score from which a face counts beside others: half of what is asked where nobody says that there is one. A weaker one
is taken only where its box is the given one, or where there is no such face."""

_SURE_FACE = 0.6
"""Score from which a face in a loose box is preferred to weaker ones in it."""

_SAME_BOX_PX = 1.0
"""Farthest that corners lie apart of a detector's own box and what rounding or cutting made of it."""

_SAME_FACE_IOU = 0.3
"""Least overlap at which a detected face is taken for the one in a given box; other detectors draw other boxes."""

_WITHIN_SHARE = 0.9
"""Least part of a box that lies within another one that holds it."""


def check_known(faces: KnownFaces, image_hw: tuple[int, int], *, picture: int) -> None:
    """Refuse landmarks and boxes that cannot be a face's in this picture.

    Args:
        faces: As the caller gave them.
        image_hw: Height and width of the picture.
        picture: Its place in the request, for the message.

    Raises:
        RequestError: Says which face it is, and what is wrong with it.
    """
    for index, points in enumerate(() if faces.landmarks is None else faces.landmarks):
        _refuse(landmarks_fault(points, image_hw), f"landmarks.{picture}.{index}: the five points")
    for index, box in enumerate(() if faces.boxes is None else faces.boxes):
        _refuse(_box_fault(box, image_hw), f"boxes.{picture}.{index}: the box")


def at_landmarks(landmarks: Landmarks) -> Detections:
    """Return faces at (N, 5, 2) landmarks; their boxes are those of the points, their score is 1."""
    if len(landmarks) == 0:
        return Detections.empty()
    boxes = np.concatenate([landmarks.min(axis=1), landmarks.max(axis=1)], axis=1)
    return Detections(boxes, np.ones(len(boxes), np.float32), landmarks, np.full(len(boxes), "given"))


def at_boxes(boxes: Boxes, detected: Detections) -> Detections:
    """Give each box the landmarks of the detected face in it.

    That is the one whose box it is, to a pixel, whatever its score. Else, of those that score 0.3, the one it overlaps
    most, by an IoU of 0.3 or more; else, however loose the box, the only one that lies in it, or the only sure one of
    several; else, however tight it is, the only one that it lies in. Where it has nothing of such a face, the weaker
    one that it overlaps most, by as much.

    Args:
        boxes: (N, 4) float32, as the caller gave them.
        detected: What the detector found in the same picture, same pixels.

    Returns:
        N faces in the order of `boxes`, with the given boxes. Score and landmarks are those of the detected face, or
        0 and an upright face's, from the box, where there is none or more than one.
    """
    scores = np.zeros(len(boxes), np.float32)
    landmarks = place_landmarks(boxes)
    landmarks_from = np.full(len(boxes), "box", "<U8")
    if len(boxes) and len(detected):
        faces = _faces_in(boxes, detected)
        is_known = faces >= 0
        scores[is_known] = detected.scores[faces[is_known]]
        landmarks[is_known] = detected.landmarks[faces[is_known]]
        landmarks_from[is_known] = detected.origins()[faces[is_known]]
    return Detections(boxes, scores, landmarks, landmarks_from)


def check_placed(placed: Detections, image_hw: tuple[int, int], *, picture: int) -> None:
    """Refuse boxes in which no face was detected and no upright one can be; otherwise as `check_known`."""
    for index in np.flatnonzero(placed.scores == 0).tolist():
        fault = landmarks_fault(placed.landmarks[index], image_hw)
        _refuse(fault, f"boxes.{picture}.{index}: no face was detected there, and an upright one's landmarks")


def _faces_in(boxes: Boxes, detected: Detections) -> NDArray[np.intp]:
    """Return (N,) which detected face each box is of, -1 where there is none or more than one."""
    overlaps = iou_matrix(boxes, detected.boxes)
    shared = intersection_matrix(boxes, detected.boxes)
    is_likely = detected.scores >= _LIKELY_FACE
    holds = (shared >= _WITHIN_SHARE * box_areas(detected.boxes)) & is_likely
    is_held = (shared >= _WITHIN_SHARE * box_areas(boxes)[:, None]) & is_likely
    faces = np.full(len(boxes), -1, np.intp)
    for index, box in enumerate(boxes):
        is_own = np.abs(detected.boxes - box).max(axis=1) <= _SAME_BOX_PX
        is_same = overlaps[index] >= _SAME_FACE_IOU
        held = holds[index] if holds[index].any() else is_held[index]
        if is_own.any():
            meant = is_own
        elif (is_same & is_likely).any():
            meant = is_same & is_likely
        elif not held.any():
            meant = is_same
        elif np.count_nonzero(held) == 1:
            meant = held
        else:
            meant = held & (detected.scores >= _SURE_FACE)
            if np.count_nonzero(meant) > 1:
                continue
        if meant.any():
            faces[index] = np.where(meant, overlaps[index], -1).argmax()
    return faces


def _box_fault(box: NDArray[np.float32], image_hw: tuple[int, int]) -> str | None:
    """Say why a (4,) box cannot hold a face of a picture; None where it may."""
    height, width = image_hw
    x1, y1, x2, y2 = box.tolist()
    if not np.isfinite(box).all():
        return "is not all finite numbers"
    if x2 <= x1 or y2 <= y1:
        return "is empty: [x1, y1, x2, y2] with x2 > x1 and y2 > y1 is wanted, not a width and a height"
    if box.min() >= 0 and box.max() <= 1:
        return "lies between 0 and 1: pixels of the picture are wanted, not fractions of its sides"
    if min(x2 - x1, y2 - y1) < LEAST_SIDE_PX:
        return f"is less than {LEAST_SIDE_PX:.0f} pixels wide or high, where no face can be seen"
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return f"lies outside the picture of {width}x{height} pixels"
    return None


def _refuse(fault: str | None, what: str) -> None:
    if fault is not None:
        raise RequestError(f"{what} {fault}.")
