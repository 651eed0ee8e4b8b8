"""Where a head is turned: exact for the average head, and never an error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jetface.domain import HeadPose
from jetface.geometry.alignment import TEMPLATE
from jetface.geometry.quality import HEAD, head_pose

MIRRORED = [1, 0, 2, 4, 3]
"""Landmarks by their places in the mirror image."""

turns = st.floats(-75, 75)


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Turn a head: x to the right, y down, z away from the camera."""
    y, p, r = np.radians([-yaw, -pitch, roll])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def photograph(yaw: float, pitch: float, roll: float, *, scale: float = 40, x: float = 0, y: float = 0) -> np.ndarray:
    """Landmarks of the average head, turned, seen from far away."""
    return np.asarray((rotation(yaw, pitch, roll) @ HEAD.T).T[:, :2] * scale + [x, y], np.float32)


def angles(pose: HeadPose) -> list[float]:
    return [pose.yaw, pose.pitch, pose.roll]


@given(
    yaw=turns, pitch=turns, roll=st.floats(-175, 175), scale=st.floats(3, 400), x=st.floats(0, 4000),
    y=st.floats(0, 4000),
)  # fmt: skip
def test_an_average_head_is_read_as_it_is_turned(
    yaw: float, pitch: float, roll: float, scale: float, x: float, y: float
) -> None:
    """At any size, anywhere in the picture, even upside down."""
    landmarks = photograph(yaw, pitch, roll, scale=scale, x=x, y=y)
    # What float32 keeps of a small head far from the origin, magnified by what the nose's depth is of the head.
    tolerance = 0.05 + 0.05 * max(x, y) / scale
    np.testing.assert_allclose(angles(head_pose(landmarks)), [yaw, pitch, roll], atol=tolerance)


@given(arrays(np.float32, (5, 2), elements=st.integers(-1000, 1000).map(float)))
def test_a_mirror_image_looks_to_the_other_side(landmarks: np.ndarray) -> None:
    """Yaw and roll turn about, pitch stays; a roll of 180 degrees has no sign."""
    pose = head_pose(landmarks)
    mirrored = head_pose((landmarks * np.array([-1, 1], np.float32))[MIRRORED])
    if abs(pose.pitch) < 89 and abs(pose.yaw) < 89 and _is_decided(landmarks):
        assert mirrored.yaw == pytest.approx(-pose.yaw, abs=0.01)
        assert mirrored.pitch == pytest.approx(pose.pitch, abs=0.01)
        assert np.cos(np.radians(mirrored.roll + pose.roll)) == pytest.approx(1, abs=1e-4)


@given(arrays(np.float32, (5, 2), elements=st.floats(allow_nan=True, allow_infinity=True, width=32)))
def test_any_landmarks_have_a_pose(landmarks: np.ndarray) -> None:
    pose = head_pose(landmarks)
    assert -90 <= pose.yaw <= 90
    assert -180 <= pose.pitch <= 180
    assert -180 <= pose.roll <= 180


def test_the_template_of_alignment_looks_into_the_camera() -> None:
    np.testing.assert_allclose(angles(head_pose(TEMPLATE)), [0, 0, 0], atol=10)


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
def test_landmarks_that_decide_nothing_look_straight(value: float) -> None:
    assert angles(head_pose(np.full((5, 2), value, np.float32))) == [0, 0, 0]


def _is_decided(landmarks: np.ndarray) -> bool:
    """Whether rounding does not choose between two poses: the fitted projection has two distinct directions."""
    centered = landmarks - landmarks.mean(axis=0)
    fitted = np.linalg.pinv(HEAD - HEAD.mean(axis=0)) @ centered
    return bool(np.linalg.svd(fitted, compute_uv=False)[1] > 1)
