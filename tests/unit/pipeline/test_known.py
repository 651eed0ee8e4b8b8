"""Faces whose place the caller knows."""

from __future__ import annotations

import numpy as np
import pytest

from jetface.domain import Detections, KnownFaces
from jetface.errors import RequestError
from jetface.geometry.alignment import TEMPLATE
from jetface.heads.scrfd import place_landmarks
from jetface.pipeline.extract import at_boxes, at_landmarks, check_known, check_placed

DETECTED = Detections(
    np.array([[100, 100, 200, 220], [400, 80, 460, 150]], np.float32),
    np.array([0.9, 0.7], np.float32),
    np.arange(20, dtype=np.float32).reshape(2, 5, 2),
)


def with_weak_face(box: list[float]) -> Detections:
    """Return what was detected and one more face, which scores 0.35."""
    weak = Detections(np.array([box], np.float32), np.array([0.35], np.float32), np.full((1, 5, 2), 99, np.float32))
    return Detections.concatenate([DETECTED, weak])


def test_landmarks_are_taken_as_they_are() -> None:
    """The box is that of the points."""
    faces = at_landmarks(DETECTED.landmarks)
    np.testing.assert_array_equal(faces.landmarks, DETECTED.landmarks)
    np.testing.assert_array_equal(faces.boxes[0], [0, 1, 8, 9])
    assert faces.origins().tolist() == ["given", "given"]


def test_a_box_gets_the_landmarks_of_the_face_it_overlaps_most() -> None:
    """The order and the boxes are the caller's."""
    boxes = np.array([[405, 85, 465, 155], [95, 95, 205, 225]], np.float32)
    faces = at_boxes(boxes, DETECTED)
    np.testing.assert_array_equal(faces.boxes, boxes)
    np.testing.assert_array_equal(faces.landmarks, DETECTED.landmarks[::-1])
    np.testing.assert_allclose(faces.scores, [0.7, 0.9])
    assert faces.origins().tolist() == ["detector", "detector"]


@pytest.mark.parametrize(
    ("box", "face"),
    [
        ([0, 0, 380, 600], 0),
        ([-1000, -1000, 399, 5000], 0),
        ([340, 0, 640, 480], 1),
        ([0, 105, 380, 600], 0),
        ([130, 140, 170, 170], 0),
        ([196, 150, 206, 160], None),
        ([0, 0, 640, 480], None),
        ([250, 300, 300, 360], None),
    ],
    ids=["loose", "beyond-the-picture", "loose-other", "nearly-holds", "tight", "beside", "two-faces", "nobody"],
)
def test_a_loose_or_tight_box_gets_the_only_face_there_is(box: list[float], face: int | None) -> None:
    """Where there is none, or more than one, landmarks are guessed, and said to be."""
    faces = at_boxes(np.array([box], np.float32), DETECTED)
    if face is None:
        np.testing.assert_array_equal(faces.landmarks, place_landmarks(np.array([box], np.float32)))
        assert (faces.scores.tolist(), faces.origins().tolist()) == ([0], ["box"])
    else:
        np.testing.assert_array_equal(faces.landmarks[0], DETECTED.landmarks[face])
        assert (faces.scores[0], faces.origins().tolist()) == (DETECTED.scores[face], ["detector"])


def test_a_sure_face_in_a_loose_box_is_preferred_to_a_weak_one() -> None:
    """What may be a face does not keep the one that is from being taken."""
    boxes = np.array([[0, 0, 380, 600]], np.float32)
    faces = at_boxes(boxes, with_weak_face([20, 400, 60, 450]))
    np.testing.assert_array_equal(faces.landmarks[0], DETECTED.landmarks[0])
    alone = at_boxes(np.array([[0, 300, 380, 600]], np.float32), with_weak_face([20, 400, 60, 450]))
    np.testing.assert_array_equal(alone.landmarks[0], np.full((5, 2), 99))


def test_a_detector_without_landmarks_guesses_whichever_face_it_finds() -> None:
    guessed = Detections(DETECTED.boxes, DETECTED.scores, DETECTED.landmarks, np.full(2, "box"))
    assert at_boxes(DETECTED.boxes, guessed).origins().tolist() == ["box", "box"]


def test_a_box_where_nothing_was_detected_gets_an_upright_face() -> None:
    """A score of 0 tells it apart."""
    boxes = np.array([[600, 300, 700, 420]], np.float32)
    faces = at_boxes(boxes, DETECTED)
    np.testing.assert_array_equal(faces.landmarks, place_landmarks(boxes))
    assert faces.scores.tolist() == [0]
    assert faces.origins().tolist() == ["box"]


def test_no_face_known_is_no_face() -> None:
    """Empty in, empty out."""
    assert len(at_landmarks(np.empty((0, 5, 2), np.float32))) == 0
    assert len(at_boxes(np.empty((0, 4), np.float32), DETECTED)) == 0
    assert at_boxes(DETECTED.boxes, Detections.empty()).scores.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ([0.1, 0.1, 0.6, 0.8], "between 0 and 1"),
        ([200, 100, 60, 80], "is empty"),
        ([100, 100, 100, 100], "is empty"),
        ([100, 100, 101, 101], "less than 2 pixels"),
        ([700, 100, 800, 200], "outside the picture of 640x480 pixels"),
        ([100, -200, 200, 0], "outside the picture of 640x480 pixels"),
        ([100, 100, np.nan, 200], "finite"),
        ([100, 100, np.inf, 200], "finite"),
    ],
    ids=["fractions", "width-and-height", "point", "tiny", "right-of", "above", "nan", "infinite"],
)
def test_a_box_that_can_hold_no_face_is_refused(box: list[float], fault: str) -> None:
    """The message says which, and what is wrong with it."""
    good = [100, 100, 200, 220]
    with pytest.raises(RequestError, match=fault) as raised:
        check_known(KnownFaces(boxes=np.array([good, box], np.float32)), (480, 640), picture=3)
    assert raised.value.message.startswith("boxes.3.1: ")
    check_known(KnownFaces(boxes=np.array([good], np.float32)), (480, 640), picture=3)


def test_landmarks_that_are_no_faces_are_refused_by_name() -> None:
    faces = np.stack([TEMPLATE, TEMPLATE[[1, 0, 2, 4, 3]]])
    with pytest.raises(RequestError, match=r"landmarks\.0\.1: the five points are mirrored"):
        check_known(KnownFaces(landmarks=faces), (480, 640), picture=0)
    check_known(KnownFaces(landmarks=faces[:1]), (480, 640), picture=0)


@pytest.mark.parametrize(
    "box", [[10, 10, 600, 14], [300, 0, 303, 480], [-2000, -2000, 4000, 4000], [600, 440, 1000, 900]]
)
def test_a_box_without_a_face_that_no_upright_one_fills_is_refused(box: list[float]) -> None:
    """A strip, or what lies outside the picture but for a corner; where a face was detected in it, it passes."""
    placed = at_boxes(np.array([box], np.float32), Detections.empty())
    with pytest.raises(RequestError, match=r"boxes\.0\.0: no face was detected there"):
        check_placed(placed, (480, 640), picture=0)
    seen = Detections(np.array([box], np.float32), np.array([0.7], np.float32), TEMPLATE[None])
    check_placed(at_boxes(np.array([box], np.float32), seen), (480, 640), picture=0)


def test_a_box_that_the_detector_drew_gets_its_face_however_weak() -> None:
    """Rounded, too, and beside a sure face that it overlaps more than a box of somebody's own has to."""
    weak = Detections(
        np.array([[130.4, 100.4, 190.4, 200.4]], np.float32),
        np.array([0.06], np.float32),
        np.full((1, 5, 2), 99, np.float32),
    )
    detected = Detections.concatenate([DETECTED, weak])
    for box in (weak.boxes, weak.boxes.round(), np.trunc(weak.boxes)):
        np.testing.assert_array_equal(at_boxes(box, detected).landmarks, weak.landmarks)
    np.testing.assert_array_equal(at_boxes(weak.boxes + 3, detected).landmarks, DETECTED.landmarks[:1])


def test_a_weak_face_is_taken_only_where_there_is_no_other() -> None:
    """It is in a box that is much its own; a loose box passes it over, and is guessed rather than given to it."""
    weak = Detections(
        np.array([[600, 300, 660, 380]], np.float32), np.array([0.1], np.float32), np.full((1, 5, 2), 99, np.float32)
    )
    detected = Detections.concatenate([DETECTED, weak])
    near, loose = np.array([[605, 305, 670, 390]], np.float32), np.array([[500, 200, 800, 500]], np.float32)
    faces = at_boxes(near, detected)
    assert (faces.landmarks[0, 0, 0], faces.origins().tolist()) == (99, ["detector"])
    assert at_boxes(loose, detected).origins().tolist() == ["box"]
    around_both = at_boxes(np.array([[380, 60, 700, 400]], np.float32), detected)
    np.testing.assert_array_equal(around_both.landmarks, DETECTED.landmarks[1:])
