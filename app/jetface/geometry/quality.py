"""The pose and the quality of a face, from its pixels and landmarks alone: no model is asked."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from jetface.domain import Crop, HeadPose, Quality
from jetface.geometry.alignment import CROP_SIDE_PX, estimate_similarity, visible_pixels, visible_shares

HEAD = np.array(
    [[-0.5, -0.506, 0.082], [0.5, -0.506, 0.082], [0.0, 0.006, -0.328], [-0.438, 0.503, 0.082], [0.438, 0.503, 0.082]],
    np.float64,
)
"""(5, 3) landmarks of an average head that looks into the camera, in distances of its eyes: x to the right, y down,
z away from the camera. x and y are measured: factorisation (Tomasi & Kanade 1992) of det_500m's landmarks on 800
portraits and their mirror images. The nose stands out by 0.41, 26 mm between eyes 63 mm apart as in generic heads for
pose estimation; the factorisation, which noise flattens, says 0.31 and turned heads looked turned too far."""
HEAD.setflags(write=False)

_FIT = np.linalg.pinv(HEAD - HEAD.mean(axis=0))


def head_pose(landmarks: NDArray[np.float32]) -> HeadPose:
    """Estimate where a head is turned.

    The projection that brings `HEAD` nearest to the landmarks in the least squares sense, taken to the nearest scaled
    rotation: `R = Rz(roll) Ry(-yaw) Rx(-pitch)`, so yaw and pitch are those of the picture turned upright.

    Args:
        landmarks: (5, 2) float32, pixels.

    Returns:
        Degrees; all 0 where the landmarks coincide or are not finite. Faces differ from the average, so the pose of
        one is off by some degrees, pitch most of all.

    Source: DeMenthon & Davis 1995, "Model-based object pose in 25 lines of code", its first step: scaled orthography.
    """
    if not np.isfinite(landmarks).all():
        return HeadPose(yaw=0.0, pitch=0.0, roll=0.0)
    centered = landmarks.astype(np.float64) - landmarks.mean(axis=0, dtype=np.float64)
    if np.abs(centered).max() <= np.abs(landmarks).max() * 1e-6:
        return HeadPose(yaw=0.0, pitch=0.0, roll=0.0)
    left, _, right = np.linalg.svd((_FIT @ centered).T, full_matrices=False)
    across, down = left @ right
    away = np.cross(across, down)
    return HeadPose(
        yaw=_degrees(np.arcsin(np.clip(away[0], -1, 1))),
        pitch=_degrees(np.arctan2(-away[1], away[2])),
        roll=_degrees(np.arctan2(down[0], across[0])),
    )


def _degrees(radians: np.float64) -> float:
    return float(np.degrees(radians))


HALF_SHARP = 25.0
"""Sharpness at which a crop counts half. Measured on 200 portraits: the median of crops blurred by a Gaussian of 1.5 px
is 26, of crops enlarged from 28 px 23; sharp portraits have 154, the least of 800 has 20."""

FULL_SIZE_PX = 80.0
"""Shorter side of a box whose crop is not enlarged: from there on size costs nothing."""

_MIDDLE = slice(16, 96)
"""Rows and columns of a crop that show face and not what is behind it."""

_EDGE_PX = 2
"""How far the fill beyond the picture reaches into a crop, beside half a pixel of the picture, which interpolation
mixes with it: a Laplacian sees the next pixel."""


def sharpness(crop: Crop, shown: NDArray[np.bool_] | None = None) -> float:
    """Return the variance of the Laplacian of a crop's middle, from 0; noise counts as sharpness too.

    Args:
        crop: (112, 112, 3) uint8 BGR.
        shown: (112, 112) which of its pixels count; None: all. 0 where none of the middle does.

    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy".
    """
    edges = cv2.Laplacian(_grey_middle(crop), cv2.CV_32F)
    counted = edges if shown is None else edges[shown[_MIDDLE, _MIDDLE]]
    return float(counted.var()) if counted.size else 0.0


def brightness(crop: Crop, shown: NDArray[np.bool_] | None = None) -> float:
    """Return the mean of a crop's middle, 0 black to 1 white; `shown` is that of `sharpness`."""
    grey = _grey_middle(crop)
    counted = grey if shown is None else grey[shown[_MIDDLE, _MIDDLE]]
    return float(counted.mean()) / 255 if counted.size else 0.0


def measure_quality(
    crop: Crop, box: NDArray[np.float32], landmarks: NDArray[np.float32], image_hw: tuple[int, int] | None = None
) -> Quality:
    """Judge a face by the worst of four things, times the share of it that the picture shows.

    Each is 1 when it does not matter and 0 when it spoils all:

    - sharpness: `s / (s + HALF_SHARP)`
    - brightness: 1 from a quarter to three quarters, falling to 0 at black and white
    - size: the box's shorter side over `FULL_SIZE_PX`, at most 1
    - pose: `cos(yaw) * cos(pitch)`; roll is undone by alignment

    A face cut by an edge of the picture is judged by what is left of it: what fills the crop beyond is no picture.

    Args:
        crop: (112, 112, 3) uint8 BGR, aligned.
        box: (4,) float32, source pixels.
        landmarks: (5, 2) float32, source pixels.
        image_hw: Height and width of the source; None where all of the crop shows it.
    """
    visible, shown = 1.0, None
    if image_hw is not None and (visible := float(visible_shares(landmarks[None], image_hw)[0])) < 1:
        shown = _shown(landmarks, image_hw)
    sharp, bright = sharpness(crop, shown), brightness(crop, shown)
    size_px = max(0.0, float((box[2:] - box[:2]).min()))
    pose = head_pose(landmarks)
    parts = (
        sharp / (sharp + HALF_SHARP),
        min(1.0, 2 - 2 * abs(2 * bright - 1)),
        min(1.0, size_px / FULL_SIZE_PX),
        _frontality(pose),
    )
    return Quality(score=min(parts) * visible, sharpness=sharp, brightness=bright, size_px=size_px, pose=pose)


def _shown(landmarks: NDArray[np.float32], image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels of a crop show the picture and nothing of the fill."""
    similarity = estimate_similarity(landmarks)
    if similarity is None:
        return np.zeros((CROP_SIDE_PX, CROP_SIDE_PX), np.bool_)
    inside = visible_pixels(similarity, image_hw).astype(np.uint8)
    side_px = 2 * math.ceil(_EDGE_PX + similarity.scale / 2) + 1
    return cv2.erode(inside, np.ones((side_px, side_px), np.uint8)).astype(np.bool_)


def _frontality(pose: HeadPose) -> float:
    yaw, pitch = np.radians([pose.yaw, pose.pitch])
    return max(0.0, float(np.cos(yaw) * np.cos(pitch)))


def _grey_middle(crop: Crop) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(crop[_MIDDLE, _MIDDLE], cv2.COLOR_BGR2GRAY), np.uint8)
