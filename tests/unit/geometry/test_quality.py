"""Quality: each part falls when its own thing gets worse, and the worst decides."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jetface.domain import Image
from jetface.geometry.alignment import CROP_SIDE_PX, TEMPLATE, align
from jetface.geometry.quality import HEAD, brightness, measure_quality, sharpness

BOX = np.array([10, 10, 110, 130], np.float32)
FRONTAL = np.float32(HEAD[:, :2] * 40 + 60)


def textured() -> np.ndarray:
    """A crop as sharp as a good portrait."""
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.uniform(0, 255, (CROP_SIDE_PX, CROP_SIDE_PX, 3)).astype(np.float32), (0, 0), 1.2)
    return np.clip(128 + 3 * (noise - 128), 0, 255).astype(np.uint8)


def blurred(image: np.ndarray, sigma_px: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.uint8)


def flat(value: int) -> np.ndarray:
    return np.full((CROP_SIDE_PX, CROP_SIDE_PX, 3), value, np.uint8)


def test_a_large_sharp_frontal_face_is_good() -> None:
    quality = measure_quality(textured(), BOX, FRONTAL)
    assert quality.score > 0.8
    assert quality.size_px == 100
    assert (quality.pose.yaw, quality.pose.roll) == pytest.approx((0, 0), abs=0.01)


@given(sigmas=st.tuples(st.floats(0.5, 6), st.floats(0.5, 6)).map(sorted).filter(lambda pair: pair[1] - pair[0] > 0.5))
def test_more_blur_is_less_sharp(sigmas: list[float]) -> None:
    less, more = (sharpness(blurred(textured(), sigma)) for sigma in sigmas)
    assert more < less


def test_a_flat_crop_has_no_sharpness() -> None:
    assert sharpness(flat(90)) == 0
    assert measure_quality(flat(90), BOX, FRONTAL).score == 0


@given(st.integers(0, 255))
def test_brightness_is_the_share_of_white(value: int) -> None:
    assert brightness(flat(value)) == pytest.approx(value / 255)


@pytest.mark.parametrize("value", [0, 128])
def test_what_lies_behind_a_face_does_not_count(value: int) -> None:
    """The margin of a crop can be black or full of leaves."""
    crop = textured()
    crop[:16] = crop[96:] = crop[:, :16] = crop[:, 96:] = value
    assert sharpness(crop) == sharpness(textured())
    assert brightness(crop) == brightness(textured())


@given(width=st.floats(1, 500), height=st.floats(1, 500))
def test_a_small_box_is_as_bad_as_it_is_small(width: float, height: float) -> None:
    quality = measure_quality(textured(), np.array([5, 5, 5 + width, 5 + height], np.float32), FRONTAL)
    assert quality.size_px == pytest.approx(min(width, height), rel=1e-3, abs=1e-3)
    assert quality.score <= min(1, min(width, height) / 80) + 1e-3


@given(st.floats(-85, 85))
def test_a_turned_head_is_worse_by_the_cosine(yaw: float) -> None:
    angle = np.radians(yaw)
    turned = np.column_stack([HEAD[:, 0] * np.cos(angle) - HEAD[:, 2] * np.sin(angle), HEAD[:, 1]])
    quality = measure_quality(textured(), BOX, np.float32(turned * 40 + 60))
    assert quality.pose.yaw == pytest.approx(yaw, abs=0.1)
    assert quality.score <= np.cos(angle) + 0.01


@given(
    arrays(np.uint8, (CROP_SIDE_PX, CROP_SIDE_PX, 3), fill=st.integers(0, 255)),
    arrays(np.float32, 4, elements=st.floats(-1e4, 1e4, width=32)),
    arrays(np.float32, (5, 2), elements=st.floats(-1e4, 1e4, width=32)),
)
def test_any_face_has_a_score_between_0_and_1(crop: np.ndarray, box: np.ndarray, landmarks: np.ndarray) -> None:
    assert 0 <= measure_quality(crop, box, landmarks).score <= 1


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("blur_px", [0.0, 2.0, 6.0])
@pytest.mark.parametrize("cut_px", [10, 30, 50])
def test_a_face_that_an_edge_cuts_is_no_better_than_the_whole_one(side: str, blur_px: float, cut_px: int) -> None:
    """The edge between the picture and the fill is no detail of the face."""
    image = textured() if blur_px == 0 else blurred(textured(), blur_px)
    cut: Any = {
        "left": np.s_[:, cut_px:], "right": np.s_[:, :-cut_px], "top": np.s_[cut_px:], "bottom": np.s_[:-cut_px],
    }[side]  # fmt: skip
    shift = np.array([cut_px * (side == "left"), cut_px * (side == "top")], np.float32)
    part = np.ascontiguousarray(image[cut])
    landmarks = TEMPLATE - shift
    whole = measure_quality(align(image, TEMPLATE), BOX, TEMPLATE, image.shape[:2])
    left = measure_quality(align(part, landmarks), BOX, landmarks, part.shape[:2])
    assert left.score <= whole.score * (1 - 0.8 * cut_px / CROP_SIDE_PX) * 1.2
    assert left.sharpness == pytest.approx(whole.sharpness, rel=0.4)
    assert left.brightness == pytest.approx(whole.brightness, abs=0.05)


def test_a_face_beyond_the_picture_has_no_quality() -> None:
    """Nothing of it can be measured."""
    landmarks = TEMPLATE + np.float32(500)
    quality = measure_quality(flat(0), BOX, landmarks, (112, 112))
    assert (quality.score, quality.sharpness, quality.brightness) == (0, 0, 0)
    assert measure_quality(flat(0), BOX, np.zeros((5, 2), np.float32), (112, 112)).score == 0
