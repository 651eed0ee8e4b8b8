"""Faces whose place the caller knows."""

from __future__ import annotations

import numpy as np

from app.domain import Detections
from app.models.families.scrfd import place_landmarks
from app.pipeline.known import at_boxes, at_landmarks

DETECTED = Detections(
    np.array([[100, 100, 200, 220], [400, 80, 460, 150]], np.float32),
    np.array([0.9, 0.7], np.float32),
    np.arange(20, dtype=np.float32).reshape(2, 5, 2),
)


def test_landmarks_are_taken_as_they_are() -> None:
    """The box is that of the points."""
    faces = at_landmarks(DETECTED.landmarks)
    np.testing.assert_array_equal(faces.landmarks, DETECTED.landmarks)
    np.testing.assert_array_equal(faces.boxes[0], [0, 1, 8, 9])


def test_a_box_gets_the_landmarks_of_the_face_it_overlaps_most() -> None:
    """The order and the boxes are the caller's."""
    boxes = np.array([[405, 85, 465, 155], [95, 95, 205, 225]], np.float32)
    faces = at_boxes(boxes, DETECTED)
    np.testing.assert_array_equal(faces.boxes, boxes)
    np.testing.assert_array_equal(faces.landmarks, DETECTED.landmarks[::-1])
    np.testing.assert_allclose(faces.scores, [0.7, 0.9])


def test_a_box_where_nothing_was_detected_gets_an_upright_face() -> None:
    """A score of 0 tells it apart."""
    boxes = np.array([[600, 300, 700, 420]], np.float32)
    faces = at_boxes(boxes, DETECTED)
    np.testing.assert_array_equal(faces.landmarks, place_landmarks(boxes))
    assert faces.scores.tolist() == [0]


def test_no_face_known_is_no_face() -> None:
    """Empty in, empty out."""
    assert len(at_landmarks(np.empty((0, 5, 2), np.float32))) == 0
    assert len(at_boxes(np.empty((0, 4), np.float32), DETECTED)) == 0
    assert at_boxes(DETECTED.boxes, Detections.empty()).scores.tolist() == [0, 0]
