"""Faces whose place the caller knows: landmarks or boxes in, what alignment needs out."""

from __future__ import annotations

import numpy as np

from app.domain import Boxes, Detections, Landmarks
from app.geometry.boxes import iou_matrix
from app.models.families.scrfd import place_landmarks

KNOWN_BOX_THRESHOLD = 0.3
"""Detector score at which a face counts where the caller says that there is one: half of what is asked elsewhere."""

_SAME_FACE_IOU = 0.3
"""Least overlap at which a detected face is taken for the one in a given box; other detectors draw other boxes."""


def at_landmarks(landmarks: Landmarks) -> Detections:
    """Return faces at (N, 5, 2) landmarks; their boxes are those of the points, their score is 1."""
    if len(landmarks) == 0:
        return Detections.empty()
    boxes = np.concatenate([landmarks.min(axis=1), landmarks.max(axis=1)], axis=1)
    return Detections(boxes, np.ones(len(boxes), np.float32), landmarks)


def at_boxes(boxes: Boxes, detected: Detections) -> Detections:
    """Give each box the landmarks of the detected face it overlaps most.

    Args:
        boxes: (N, 4) float32, as the caller gave them.
        detected: What the detector found in the same picture, same pixels.

    Returns:
        N faces in the order of `boxes`, with the given boxes. Score and landmarks are those of the detected face, or
        0 and an upright face's where none overlaps enough.
    """
    scores = np.zeros(len(boxes), np.float32)
    landmarks = place_landmarks(boxes)
    if len(boxes) and len(detected):
        overlaps = iou_matrix(boxes, detected.boxes)
        best = overlaps.argmax(axis=1)
        is_same = overlaps[np.arange(len(boxes)), best] >= _SAME_FACE_IOU
        scores[is_same] = detected.scores[best[is_same]]
        landmarks[is_same] = detected.landmarks[best[is_same]]
    return Detections(boxes, scores, landmarks)
