"""Faces drawn onto pictures."""

from __future__ import annotations

import numpy as np
import pytest

from jetface.errors import ImageTooLargeError
from jetface.imaging.draw import MAX_JPEG_SIDE_PX, DrawOptions, draw_faces, encode_jpeg
from tests.support.fakes import face_number

EVERYTHING = DrawOptions(with_landmarks=True, with_scores=True, with_sizes=True)
NOTHING = DrawOptions(with_landmarks=False, with_scores=False, with_sizes=False)


def test_the_picture_itself_is_left_alone() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    drawn = draw_faces(image, [face_number(0, 0)], EVERYTHING)
    assert not image.any()
    assert drawn.any()


def test_boxes_are_drawn_where_they_are() -> None:
    drawn = draw_faces(np.zeros((200, 200, 3), np.uint8), [face_number(0, 0)], NOTHING)
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert abs(rows.min() - 32) <= 2
    assert abs(rows.max() - 111) <= 2
    assert abs(columns.min() - 87) <= 2
    assert abs(columns.max() - 145) <= 2


@pytest.mark.parametrize("image_hw", [(1, 1), (1, 3000), (40, 40), (3000, 1)])
def test_faces_outside_the_picture_do_no_harm(image_hw: tuple[int, int]) -> None:
    image = np.zeros((*image_hw, 3), np.uint8)
    drawn = draw_faces(image, [face_number(0, 0), face_number(1, 0, scale=1e9)], EVERYTHING)
    assert drawn.shape == image.shape


def test_no_face_leaves_the_picture_as_it_is() -> None:
    image = np.full((10, 10, 3), 7, np.uint8)
    np.testing.assert_array_equal(draw_faces(image, [], EVERYTHING), image)


def test_jpeg() -> None:
    assert encode_jpeg(np.zeros((10, 10, 3), np.uint8)).startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize("is_wide", [False, True])
def test_a_side_that_no_jpeg_has_is_the_picture_s_fault(*, is_wide: bool) -> None:
    """PNG has pictures of 65535 pixels a side."""
    longest = np.zeros((1, MAX_JPEG_SIDE_PX, 3), np.uint8)
    longer = np.zeros((1, MAX_JPEG_SIDE_PX + 1, 3), np.uint8)
    assert encode_jpeg(longest if is_wide else longest.transpose(1, 0, 2)).startswith(b"\xff\xd8")
    with pytest.raises(ImageTooLargeError):
        encode_jpeg(longer if is_wide else longer.transpose(1, 0, 2))
