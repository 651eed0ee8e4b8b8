"""Five landmarks to where a head is turned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jetface.domain import HeadPose

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
