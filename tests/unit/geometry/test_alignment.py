"""Alignment recovers known transforms, agrees with Umeyama's method, and never raises."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jetface.domain import Image
from jetface.geometry.alignment import (
    CROP_SIDE_PX,
    TEMPLATE,
    align,
    estimate_similarity,
    landmarks_fault,
    visible_shares,
)


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama 1991 by singular value decomposition, as skimage's `SimilarityTransform.estimate` does it."""
    source, target = source.astype(np.float64), target.astype(np.float64)
    source_mean, target_mean = source.mean(0), target.mean(0)
    x, y = source - source_mean, target - target_mean
    u, s, vt = np.linalg.svd(y.T @ x / len(x))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = (s @ sign) / x.var(axis=0).sum()
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ source_mean])


landmark_arrays = npst.arrays(np.float32, (5, 2), elements=st.integers(0, 4000).map(float))


@given(
    scale=st.floats(0.02, 50),
    angle=st.floats(-np.pi, np.pi),
    shift=st.tuples(st.floats(-3000, 3000), st.floats(-3000, 3000)),
)
def test_known_transforms_are_recovered(scale: float, angle: float, shift: tuple[float, float]) -> None:
    """A template that was turned, resized and moved is brought back onto itself."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = TEMPLATE @ turn.T + np.array(shift)
    found = estimate_similarity(moved, TEMPLATE)
    assert found is not None
    matrix = found.matrix
    np.testing.assert_allclose(moved @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=1e-3)


@given(landmarks=landmark_arrays)
def test_the_closed_form_is_umeyamas_method(landmarks: np.ndarray) -> None:
    """Arbitrary points, mirrored ones included: the least squares fit of both is equally good, and mostly the same."""
    found = estimate_similarity(landmarks, TEMPLATE)
    if found is None:
        return  # no direction: coinciding points, or a perfect mirror image
    matrix = found.matrix
    expected = umeyama(landmarks, TEMPLATE)
    fit = landmarks @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE
    expected_fit = landmarks @ expected[:, :2].T + expected[:, 2] - TEMPLATE
    assert (fit**2).sum() <= (expected_fit**2).sum() + 1e-4


@given(
    noise=npst.arrays(np.float32, (5, 2), elements=st.floats(-8, 8, width=32)),
    scale=st.floats(0.1, 20),
    angle=st.floats(-np.pi, np.pi),
)
def test_faces_agree_with_umeyama(noise: np.ndarray, scale: float, angle: float) -> None:
    """For points that look like a face, in any turn and size, every entry agrees to 1e-4."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = ((TEMPLATE + noise) @ turn.T + 1000).astype(np.float32)
    found = estimate_similarity(landmarks, TEMPLATE)
    assert found is not None
    matrix = found.matrix
    expected = umeyama(landmarks, TEMPLATE)
    np.testing.assert_allclose(matrix[:, :2], expected[:, :2], atol=1e-6)
    np.testing.assert_allclose(matrix[:, 2], expected[:, 2], atol=1e-3)


def blurred_noise(rng: np.random.Generator, image_hw: tuple[int, int], sigma_px: float) -> Image:
    noise = rng.integers(0, 256, (*image_hw, 3), np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), sigma_px), np.uint8)


def test_a_crop_is_what_warping_the_whole_picture_gives() -> None:
    """Handing OpenCV only the covered part does not change the crop by more than rounding."""
    rng = np.random.default_rng(3)
    image = blurred_noise(rng, (900, 1200), 3)
    for _ in range(50):
        angle, scale = rng.uniform(-np.pi, np.pi), rng.uniform(0.3, 5)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        landmarks = ((TEMPLATE - 56) @ turn.T + rng.uniform(-50, 1100, 2)).astype(np.float32)
        found = estimate_similarity(landmarks, TEMPLATE)
        assert found is not None
        whole = cv2.warpAffine(image, found.matrix, (CROP_SIDE_PX, CROP_SIDE_PX), borderValue=0.0)
        difference = np.abs(align(image, landmarks).astype(int) - whole)
        assert difference.mean() < 0.05
        assert difference.max() <= 24


@pytest.mark.parametrize(
    "landmarks",
    [
        np.zeros((5, 2)),
        np.full((5, 2), 1e5),
        np.full((5, 2), np.nan),
        np.full((5, 2), np.inf),
        np.array([[0, 0], [np.nan, 1], [2, 2], [3, 3], [4, 4]]),
        np.array([[1e38, -1e38], [-1e38, 1e38], [1e38, 1e38], [0, 0], [1, 1]]),
        np.full((5, 2), 3.4e38),
        TEMPLATE * 1e-30,
        TEMPLATE + 1e6,
        TEMPLATE - 1e6,
    ],
    ids=["zero", "equal", "nan", "inf", "one-nan", "huge", "huge-equal", "tiny", "far-right", "far-left"],
)
def test_degenerate_landmarks_give_a_crop(landmarks: np.ndarray) -> None:
    """Whatever the detector says, there is a crop, black where nothing is known."""
    crop = align(np.full((50, 60, 3), 255, np.uint8), landmarks.astype(np.float32))
    assert crop.shape == (CROP_SIDE_PX, CROP_SIDE_PX, 3)
    assert crop.dtype == np.uint8


@given(landmarks=npst.arrays(np.float32, (5, 2)), image_hw=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_any_landmarks_give_a_crop(landmarks: np.ndarray, image_hw: tuple[int, int]) -> None:
    """Every float32 is tried: subnormal, infinite, not a number."""
    crop = align(np.full((*image_hw, 3), 9, np.uint8), landmarks)
    assert crop.shape == (CROP_SIDE_PX, CROP_SIDE_PX, 3)


@pytest.mark.parametrize("image_hw", [(40, 40_000), (40_000, 40), (1, 10_000), (1, 1)])
def test_pictures_of_extreme_shape_are_aligned(image_hw: tuple[int, int]) -> None:
    """OpenCV's limit of 32767 px a side is not the caller's."""
    image = np.full((*image_hw, 3), 100, np.uint8)
    for scale in (1, 600):
        crop = align(image, (TEMPLATE * scale).astype(np.float32))
        assert crop.shape == (CROP_SIDE_PX, CROP_SIDE_PX, 3)
        assert crop[0, 0, 0] in (0, 100)


def test_a_part_longer_than_opencvs_limit_is_thinned_out() -> None:
    """A crop that covers 50000 px of width still shows them."""
    image = np.zeros((8, 60_000, 3), np.uint8)
    image[:, 30_000:] = 255
    landmarks = ((TEMPLATE - 56) * 500 + [30_000, 4]).astype(np.float32)
    crop = align(image, landmarks)
    assert crop.shape == (CROP_SIDE_PX, CROP_SIDE_PX, 3)


def test_beyond_the_picture_is_black() -> None:
    """A face at the border keeps its place in the crop."""
    image = np.full((112, 112, 3), 255, np.uint8)
    crop = align(image, TEMPLATE + np.float32(56))
    assert (crop[:50, :50] == 255).all()
    assert (crop[60:] == 0).all()
    assert (crop[:, 60:] == 0).all()


def test_a_mirror_image_decides_nothing() -> None:
    """Every rotation fits a mirrored square equally badly."""
    square = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]], np.float32)
    assert estimate_similarity(square * np.array([-1, 1], np.float32), square) is None


@given(
    scale=st.floats(0.2, 10),
    angle=st.floats(-np.pi, np.pi),
    shift=st.tuples(st.floats(-50, 250), st.floats(-50, 350)),
)
def test_what_a_crop_does_not_cover_does_not_change_it(scale: float, angle: float, shift: tuple[float, float]) -> None:
    """What lies more than a few pixels, of the picture or of the crop, beyond its corners may be anything."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    image = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    corners = np.array([[0, 0], [112, 0], [112, 112], [0, 112]]) - 56
    outline = np.round(corners @ turn.T + np.array(shift)).astype(np.int32)
    reach = 2 * math.ceil(4 * max(1.0, scale)) + 1
    # With a margin around the picture: corners that lie beside it reach into it, too.
    inside = cv2.fillConvexPoly(np.zeros((300 + 2 * reach, 200 + 2 * reach), np.uint8), outline + reach, 1)
    covered = cv2.dilate(inside, np.ones((reach, reach), np.uint8))[reach:-reach, reach:-reach]
    landmarks = ((TEMPLATE - 56) @ turn.T + np.array(shift)).astype(np.float32)
    np.testing.assert_array_equal(
        align(image, landmarks), align(np.asarray(image * covered[..., None], np.uint8), landmarks)
    )


def faces_within(image_hw: tuple[int, int], *, scale: float, angle: float) -> np.ndarray:
    """Return a face's landmarks in the middle of a picture, `scale` times as large as in a crop, turned by `angle`."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray((TEMPLATE - 56) @ turn.T + np.array([image_hw[1] / 2, image_hw[0] / 2]), np.float32)


def test_the_visible_share_is_that_of_the_crop_within_the_picture() -> None:
    """A crop that is the picture is whole; shifted by half its side each way a quarter is left; far away nothing."""
    shifts = np.array([[0, 0], [56, 0], [56, -56], [200, 0], [1e7, 0]], np.float32)
    shares = visible_shares(TEMPLATE[None] + shifts[:, None], (112, 112))
    np.testing.assert_allclose(shares, [1, 0.5, 0.25, 0, 0], atol=1e-6)
    assert visible_shares(np.full((2, 5, 2), 7, np.float32), (112, 112)).tolist() == [0, 0]
    assert visible_shares(np.full((1, 5, 2), np.nan, np.float32), (112, 112)).tolist() == [0]
    assert visible_shares(np.empty((0, 5, 2), np.float32), (112, 112)).shape == (0,)


@given(
    scale=st.floats(0.2, 10),
    angle=st.floats(-np.pi, np.pi),
    shift=st.tuples(st.floats(-300, 300), st.floats(-300, 300)),
)
def test_what_is_not_visible_is_black(scale: float, angle: float, shift: tuple[float, float]) -> None:
    """The share that is said to be visible is that of a white picture's crop which is not black."""
    image_hw = (160, 240)
    landmarks = faces_within(image_hw, scale=scale, angle=angle) + np.array(shift, np.float32)
    (share,) = visible_shares(landmarks[None], image_hw)
    white = align(np.full((*image_hw, 3), 255, np.uint8), landmarks)[..., 0]
    assert share == pytest.approx((white > 127).mean(), abs=0.02)


@given(scale=st.floats(0.1, 3), angle=st.floats(-np.pi, np.pi), yaw=st.floats(-75, 75))
def test_a_face_in_any_turn_may_be_one(scale: float, angle: float, yaw: float) -> None:
    """Small or large, upside down, the head turned far to a side."""
    squeeze = np.array([np.cos(np.radians(yaw)), 1])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = ((TEMPLATE - 56) * squeeze @ turn.T + 300).astype(np.float32)
    assert landmarks_fault(landmarks, (600, 600)) is None


FACE = TEMPLATE * np.float32(1.5) + np.array([300, 100], np.float32)
PICTURE_HW = (480, 640)


@pytest.mark.parametrize(
    ("landmarks", "fault"),
    [
        (FACE[[1, 0, 2, 4, 3]], "mirrored or in a wrong order"),
        (FACE[:, ::-1], "mirrored or in a wrong order"),
        (FACE[[1, 0, 2, 3, 4]], "mirrored or in a wrong order"),
        (FACE[[0, 1, 2, 4, 3]], "mirrored or in a wrong order"),
        (FACE[[3, 4, 2, 0, 1]], "mirrored or in a wrong order"),
        (FACE[[2, 0, 1, 3, 4]], "mirrored or in a wrong order"),
        (FACE * np.array([-1, 1], np.float32) + np.array([640, 0], np.float32), "mirrored or in a wrong order"),
        (FACE / np.array([640, 480], np.float32), "between 0 and 1"),
        (np.full((5, 2), 0.5), "between 0 and 1"),
        (np.full((5, 2), 200), "less than a few pixels"),
        ((FACE - 300) * 0.01 + 300, "less than a few pixels"),
        (np.stack([np.arange(5), np.arange(5)], axis=1) * 20 + 100, "on one line"),
        ([[100, 100], [140, 100], [120, 100], [105, 100], [135, 100]], "on one line"),
        ([[100, 100], [200, 100], [110, 190], [190, 110], [120, 150]], "do not lie as those of a face"),
        (FACE + np.array([700, 0], np.float32), "outside the picture of 640x480 pixels"),
        (FACE - np.array([0, 1e6], np.float32), "outside the picture of 640x480 pixels"),
        (FACE * 10, "outside the picture"),
        ((FACE - 300) * 1e4 + 300, "outside the picture"),
        ((FACE - FACE[2]) * 60 + FACE[2], "of the aligned face outside the picture"),
        (FACE - np.array([430, 0], np.float32), "outside the picture"),
        (np.where(np.eye(5, 2, dtype=bool), np.nan, FACE), "finite"),
        (np.where(np.eye(5, 2, dtype=bool), np.inf, FACE), "finite"),
        (np.full((5, 2), 3.4e38), "outside the picture"),
    ],
    ids=[
        "left-right", "x-y", "eyes", "mouth", "up-down", "nose-first", "mirrored-picture", "fractions", "half", "equal",
        "tiny", "diagonal", "flat", "scrambled", "right-of", "far-above", "ten-times", "enormous", "huge", "cut-off",
        "nan", "infinite", "largest",
    ],
)  # fmt: skip
def test_what_cannot_be_a_face_is_said_to_be_none(landmarks: np.ndarray, fault: str) -> None:
    """Each in words that tell how to mend it."""
    assert landmarks_fault(FACE, PICTURE_HW) is None
    assert fault in str(landmarks_fault(np.asarray(landmarks, np.float32), PICTURE_HW))


@given(landmarks=npst.arrays(np.float32, (5, 2)), image_hw=st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
def test_any_landmarks_are_judged(landmarks: np.ndarray, image_hw: tuple[int, int]) -> None:
    """Every float32 is tried; what passes has a crop that shows at least a fifth of picture."""
    if landmarks_fault(landmarks, image_hw) is None:
        assert visible_shares(landmarks[None], image_hw)[0] >= 0.2


@pytest.mark.parametrize("angle", [0.0, 0.7, np.pi])
def test_noise_of_a_large_face_is_averaged_and_not_sampled(angle: float) -> None:
    """Six times as large as its crop and noisy, a face has nearly the crop it has without noise."""
    rng = np.random.default_rng(0)
    clean = cv2.GaussianBlur(rng.uniform(0, 255, (900, 900, 3)).astype(np.float32), (0, 0), 15)
    clean = np.clip(128 + 20 * (clean - 128), 0, 255)
    noisy = np.clip(clean + rng.normal(0, 25, clean.shape), 0, 255).astype(np.uint8)
    landmarks = faces_within((900, 900), scale=6, angle=angle)
    similarity = estimate_similarity(landmarks)
    assert similarity is not None
    wanted = align(clean.astype(np.uint8), landmarks).astype(np.float32)
    sampled = cv2.warpAffine(noisy, similarity.matrix, (CROP_SIDE_PX, CROP_SIDE_PX)).astype(np.float32)
    assert np.abs(sampled - wanted).mean() > 10
    assert np.abs(align(noisy, landmarks) - wanted).mean() < 4


def test_a_large_face_without_noise_is_sampled_as_insightface_does() -> None:
    """So that embeddings stay comparable with those of other servers."""
    rng = np.random.default_rng(1)
    image = blurred_noise(rng, (900, 900), 2)
    landmarks = faces_within((900, 900), scale=6, angle=0.3)
    similarity = estimate_similarity(landmarks)
    assert similarity is not None
    whole = cv2.warpAffine(image, similarity.matrix, (CROP_SIDE_PX, CROP_SIDE_PX))
    assert np.abs(align(image, landmarks).astype(int) - whole).max() <= 8
