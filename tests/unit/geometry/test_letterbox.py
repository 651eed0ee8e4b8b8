"""Letterboxes: insightface's placement, reversible, and possible for any picture."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jetface.domain import Detections
from jetface.geometry.letterbox import Letterbox, scaled_canvas, to_source

image_sizes = st.tuples(st.integers(1, 20_000), st.integers(1, 20_000))
canvas_sizes = st.tuples(st.integers(1, 40), st.integers(1, 40)).map(lambda hw: (hw[0] * 32, hw[1] * 32))
bounds = st.floats(1, 30) | st.just(math.inf)


def insightface_canvas(image: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """Return what `SCRFD._detect_candidates` of insightface 2.1 feeds its graph, and the scale it undoes."""
    im_ratio = float(image.shape[0]) / image.shape[1]
    if im_ratio > 1.0:
        new_height = size
        new_width = int(new_height / im_ratio)
    else:
        new_width = size
        new_height = int(new_width * im_ratio)
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[:new_height, :new_width] = cv2.resize(image, (new_width, new_height))
    return canvas, float(new_height) / image.shape[0]


@pytest.mark.parametrize(
    "image_hw", [(886, 1280), (1280, 886), (640, 640), (333, 500), (1707, 1280), (90, 31), (2280, 1588), (431, 768)]
)
def test_a_square_canvas_is_insightfaces(image_hw: tuple[int, int]) -> None:
    """Every pixel and the scale agree."""
    image = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), np.uint8)
    canvas, scale = insightface_canvas(image, 640)
    letterbox = Letterbox.fit(image_hw, (640, 640), rectangular=False)
    assert letterbox.scale == scale
    np.testing.assert_array_equal(letterbox.apply(image), canvas)


@given(image_hw=image_sizes, max_hw=canvas_sizes, rectangular=st.booleans(), max_upscale=bounds)
def test_every_picture_fits(
    image_hw: tuple[int, int], max_hw: tuple[int, int], rectangular: bool, max_upscale: float
) -> None:
    """The resized picture has at least a pixel a side, lies within its canvas, and that within the largest one."""
    letterbox = Letterbox.fit(image_hw, max_hw, rectangular=rectangular, max_upscale=max_upscale)
    for resized, canvas, limit in zip(letterbox.resized_hw, letterbox.canvas_hw, max_hw, strict=True):
        assert 1 <= resized <= canvas <= limit
        assert canvas % 32 == 0
    assert letterbox.scale > 0
    if not rectangular:
        assert letterbox.canvas_hw == max_hw


@given(
    image_hw=image_sizes,
    max_hw=canvas_sizes,
    max_upscale=bounds,
    points=npst.arrays(np.float32, (7, 2), elements=st.floats(-1e4, 1e5, width=32)),
)
def test_every_point_round_trips(
    image_hw: tuple[int, int], max_hw: tuple[int, int], max_upscale: float, points: np.ndarray
) -> None:
    """To the canvas and back is where a point came from, and neither way changes the argument."""
    letterbox = Letterbox.fit(image_hw, max_hw, rectangular=True, max_upscale=max_upscale)
    before = points.copy()
    there = points * np.float32(letterbox.scale)
    back = letterbox.to_image(there)
    np.testing.assert_allclose(back, points, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(points, before)
    assert there.dtype == back.dtype == np.float32


@pytest.mark.parametrize("image_hw", [(10_000, 1), (1, 10_000), (1, 1), (2, 40_000), (40_000, 2)])
@pytest.mark.parametrize("rectangular", [False, True])
def test_extreme_pictures_are_drawn(image_hw: tuple[int, int], rectangular: bool) -> None:
    """A side that shrinks to nothing stays one pixel, and the scale is that of the long side."""
    letterbox = Letterbox.fit(image_hw, (640, 640), rectangular=rectangular)
    canvas = letterbox.apply(np.full((*image_hw, 3), 200, np.uint8))
    assert canvas.shape == (*letterbox.canvas_hw, 3)
    height, width = letterbox.resized_hw
    assert (canvas[:height, :width] == 200).all()
    assert canvas.sum() == 200 * 3 * height * width
    assert letterbox.scale == pytest.approx(640 / max(image_hw))


@given(image_hw=st.tuples(st.integers(1, 200), st.integers(1, 200)), max_hw=canvas_sizes, rectangular=st.booleans())
def test_a_canvas_that_is_given_is_drawn_over_whole(
    image_hw: tuple[int, int], max_hw: tuple[int, int], rectangular: bool
) -> None:
    """Nothing of what was there before is left, and it is the very canvas that comes back."""
    image = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), np.uint8)
    letterbox = Letterbox.fit(image_hw, max_hw, rectangular=rectangular)
    canvas = np.full(letterbox.canvas_shape, 99, np.uint8)
    assert letterbox.apply(image, into=canvas) is canvas
    np.testing.assert_array_equal(canvas, letterbox.apply(image))
    height, width = letterbox.resized_hw
    assert not canvas[height:].any()
    assert not canvas[:, width:].any()


def test_a_canvas_of_another_shape_is_refused() -> None:
    """Nothing is drawn beside it."""
    with pytest.raises(ValueError, match="for a letterbox of"):
        Letterbox.fit((10, 10), (64, 64), rectangular=False).apply(
            np.zeros((10, 10, 3), np.uint8), into=np.zeros((64, 32, 3), np.uint8)
        )


def test_a_picture_of_the_canvas_size_is_copied() -> None:
    """Its pixels are unchanged, and drawing on the canvas does not reach the picture."""
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    canvas = Letterbox.fit((64, 96), (64, 96), rectangular=True).apply(image)
    np.testing.assert_array_equal(canvas, image)
    assert not np.shares_memory(canvas, image)


@pytest.mark.parametrize(
    ("image_hw", "max_hw"), [((0, 5), (640, 640)), ((5, 0), (640, 640)), ((5, 5), (0, 640)), ((5, 5), (640, 650))]
)
def test_impossible_sizes_are_refused(image_hw: tuple[int, int], max_hw: tuple[int, int]) -> None:
    """No side may be empty, and canvases come in steps of 32 px."""
    with pytest.raises(ValueError, match="cannot fit"):
        Letterbox.fit(image_hw, max_hw, rectangular=False)


def test_another_picture_is_refused() -> None:
    """A letterbox serves the size it was made for."""
    with pytest.raises(ValueError, match="on a letterbox for"):
        Letterbox.fit((10, 10), (64, 64), rectangular=False).apply(np.zeros((10, 11, 3), np.uint8))


def test_detections_are_mapped_to_the_source() -> None:
    """Boxes and landmarks are divided by the scale, scores stay."""
    letterbox = Letterbox.fit((1280, 1280), (640, 640), rectangular=False)
    found = Detections(
        np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), np.ones((1, 5, 2), np.float32)
    )
    source = to_source(found, letterbox)
    np.testing.assert_array_equal(source.boxes, [[2, 4, 6, 8]])
    np.testing.assert_array_equal(source.landmarks, np.full((1, 5, 2), 2))
    np.testing.assert_array_equal(source.scores, found.scores)


def test_no_face_needs_no_mapping() -> None:
    """Most second looks find nothing."""
    none = Detections.empty()
    assert to_source(none, Letterbox.fit((1280, 1280), (640, 640), rectangular=False)) is none


@pytest.mark.parametrize(
    ("fraction", "expected"), [(1.0, (640, 640)), (0.2, (128, 128)), (0.15, (96, 96)), (0.001, (32, 32))]
)
def test_fractions_of_a_canvas_keep_to_the_steps(fraction: float, expected: tuple[int, int]) -> None:
    """Sides are rounded to multiples of 32 and never below one step."""
    assert scaled_canvas((640, 640), fraction) == expected


def test_a_rectangular_canvas_keeps_a_margin() -> None:
    """A wide picture pays for its own height and the margin, not for a square; a square one as before."""
    assert Letterbox.fit((720, 1280), (640, 640), rectangular=True).canvas_hw == (576, 640)
    assert Letterbox.fit((1280, 320), (640, 640), rectangular=True).canvas_hw == (640, 352)
    assert Letterbox.fit((500, 500), (640, 640), rectangular=True).canvas_hw == (640, 640)


@given(
    image_hw=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    max_hw=canvas_sizes,
    rectangular=st.booleans(),
    max_upscale=st.floats(1, 30),
)
def test_pictures_are_enlarged_up_to_the_bound(
    image_hw: tuple[int, int], max_hw: tuple[int, int], rectangular: bool, max_upscale: float
) -> None:
    """By the bound itself where they are small, on a canvas no larger than they need; others lie as without one."""
    letterbox = Letterbox.fit(image_hw, max_hw, rectangular=rectangular, max_upscale=max_upscale)
    if min(limit / side for limit, side in zip(max_hw, image_hw, strict=True)) <= max_upscale:
        assert letterbox == Letterbox.fit(image_hw, max_hw, rectangular=rectangular)
        return
    assert letterbox.scale == max_upscale
    for side, resized, canvas, limit in zip(image_hw, letterbox.resized_hw, letterbox.canvas_hw, max_hw, strict=True):
        assert abs(resized - side * max_upscale) <= 0.5
        assert canvas == limit or (rectangular and canvas - resized < 32)


def test_a_picture_that_is_not_enlarged_keeps_its_pixels() -> None:
    """At a bound of 1."""
    image = np.random.default_rng(2).integers(0, 256, (90, 110, 3), np.uint8)
    canvas = Letterbox.fit((90, 110), (640, 640), rectangular=True, max_upscale=1).apply(image)
    np.testing.assert_array_equal(canvas[:90, :110], image)


@given(
    image_hw=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    max_hw=st.tuples(st.integers(1, 6), st.integers(1, 6)).map(lambda hw: (hw[0] * 32, hw[1] * 32)),
    rotation=st.sampled_from([90, 180, 270]),
    rectangular=st.booleans(),
    max_upscale=st.sampled_from([1.0, 1.5, math.inf]),
)
def test_a_turned_picture_is_drawn_as_if_it_had_come_so(
    image_hw: tuple[int, int], max_hw: tuple[int, int], rotation: int, rectangular: bool, max_upscale: float
) -> None:
    """The same canvas, but for rounding; and what lies on it is mapped to the picture as it is."""
    image = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), np.uint8)
    turned = np.ascontiguousarray(np.rot90(image, -rotation // 90))
    letterbox = Letterbox.fit(image_hw, max_hw, rectangular=rectangular, rotation=rotation, max_upscale=max_upscale)
    upright = Letterbox.fit(turned.shape[:2], max_hw, rectangular=rectangular, max_upscale=max_upscale)
    assert (letterbox.scale, letterbox.resized_hw, letterbox.canvas_hw) == (
        upright.scale, upright.resized_hw, upright.canvas_hw
    )  # fmt: skip
    np.testing.assert_allclose(letterbox.apply(image), upright.apply(turned), atol=3)
    row, column = turned.shape[0] // 3, turned.shape[1] // 2
    point = np.array([[column, row]], np.float32) * np.float32(upright.scale)
    x, y = np.round(letterbox.to_image(point)[0]).astype(int)
    np.testing.assert_array_equal(image[y, x], turned[row, column])


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_boxes_of_turned_pictures_have_their_corners_in_order(rotation: int) -> None:
    letterbox = Letterbox.fit((300, 500), (640, 640), rectangular=True, rotation=rotation)
    boxes = np.array([[20, 30, 60, 90]], np.float32)
    found = Detections(boxes, np.ones(1, np.float32), boxes[:, None, :2].repeat(5, axis=1))
    placed = to_source(found, letterbox)
    sides = (placed.boxes[0, 2:] - placed.boxes[0, :2]) * letterbox.scale
    np.testing.assert_allclose(sides, [40, 60] if rotation % 180 == 0 else [60, 40], rtol=1e-5)
