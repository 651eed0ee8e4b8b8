"""Cut-outs stay inside the picture, whatever the box."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jetface.geometry.alignment import cut_out


def gradient(height: int, width: int) -> np.ndarray:
    """Each pixel tells its place: blue its column, green its row."""
    rows, columns = np.mgrid[:height, :width]
    return np.dstack([columns, rows, np.zeros_like(rows)]).astype(np.uint8)


def seen(image: np.ndarray) -> tuple[int, int, int, int]:
    """Return `x1, y1, x2, y2` of the pixels of a gradient that are seen."""
    return image[..., 0].min(), image[..., 1].min(), image[..., 0].max(), image[..., 1].max()


def cut(image: np.ndarray, *box: float, enlargement: float, side: int) -> np.ndarray:
    return cut_out(image, np.array(box, np.float32), enlargement=enlargement, output_hw=(side, side))


def test_a_box_in_the_middle_is_enlarged_about_its_centre() -> None:
    assert seen(cut(gradient(200, 200), 90, 90, 110, 110, enlargement=4, side=80)) == (60, 60, 139, 139)


def test_a_window_that_would_leave_the_picture_is_moved_inside() -> None:
    """Nothing is padded: a black edge would look like the edge of a screen."""
    assert seen(cut(gradient(200, 200), 0, 0, 20, 20, enlargement=4, side=80)) == (0, 0, 79, 79)
    assert seen(cut(gradient(200, 200), 180, 90, 200, 110, enlargement=4, side=80)) == (120, 60, 199, 139)


def test_a_window_larger_than_the_picture_shrinks_and_keeps_its_shape() -> None:
    left, top, right, bottom = seen(cut(gradient(100, 200), 80, 30, 120, 70, enlargement=4, side=99))
    assert bottom - top == right - left == 98


@given(
    image_hw=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    box=arrays(np.float32, 4, elements=st.floats(-200, 200, width=32)),
    enlargement=st.floats(1, 8),
    output_hw=st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
def test_any_box_of_any_picture_has_a_cutout(
    image_hw: tuple[int, int], box: np.ndarray, enlargement: float, output_hw: tuple[int, int]
) -> None:
    """Boxes outside of the picture or without area, pictures of one pixel; only its own pixels are seen."""
    image = np.full((*image_hw, 3), 200, np.uint8)
    cutout = cut_out(image, box, enlargement=enlargement, output_hw=output_hw)
    assert cutout.shape == (*output_hw, 3)
    assert (cutout == 200).all()
