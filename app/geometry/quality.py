"""How well a face can be recognized, from its pixels and landmarks alone: no model is asked."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from app.domain import Crop, HeadPose, Quality
from app.geometry.pose import head_pose

HALF_SHARP = 25.0
"""Sharpness at which a crop counts half. Measured on 200 portraits: the median of crops blurred by a Gaussian of 1.5 px
is 26, of crops enlarged from 28 px 23; sharp portraits have 154, the least of 800 has 20."""

FULL_SIZE_PX = 80.0
"""Shorter side of a box whose crop is not enlarged: from there on size costs nothing."""

_MIDDLE = slice(16, 96)
"""Rows and columns of a crop that show face and not what is behind it."""


def sharpness(crop: Crop) -> float:
    """Return the variance of the Laplacian of a crop's middle, from 0; noise counts as sharpness too.

    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy".
    """
    return float(cv2.Laplacian(_grey_middle(crop), cv2.CV_32F).var())


def brightness(crop: Crop) -> float:
    """Return the mean of a crop's middle, 0 black to 1 white."""
    return float(_grey_middle(crop).mean()) / 255


def measure_quality(crop: Crop, box: NDArray[np.float32], landmarks: NDArray[np.float32]) -> Quality:
    """Judge a face by the worst of four things, each 1 when it does not matter and 0 when it spoils all.

    - sharpness: `s / (s + HALF_SHARP)`
    - brightness: 1 from a quarter to three quarters, falling to 0 at black and white
    - size: the box's shorter side over `FULL_SIZE_PX`, at most 1
    - pose: `cos(yaw) * cos(pitch)`; roll is undone by alignment

    Args:
        crop: (112, 112, 3) uint8 BGR, aligned.
        box: (4,) float32, source pixels.
        landmarks: (5, 2) float32, source pixels.
    """
    sharp, bright = sharpness(crop), brightness(crop)
    size_px = max(0.0, float((box[2:] - box[:2]).min()))
    pose = head_pose(landmarks)
    parts = (
        sharp / (sharp + HALF_SHARP),
        min(1.0, 2 - 2 * abs(2 * bright - 1)),
        min(1.0, size_px / FULL_SIZE_PX),
        _frontality(pose),
    )
    return Quality(score=min(parts), sharpness=sharp, brightness=bright, size_px=size_px, pose=pose)


def _frontality(pose: HeadPose) -> float:
    yaw, pitch = np.radians([pose.yaw, pose.pitch])
    return max(0.0, float(np.cos(yaw) * np.cos(pitch)))


def _grey_middle(crop: Crop) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(crop[_MIDDLE, _MIDDLE], cv2.COLOR_BGR2GRAY), np.uint8)
