"""Placing a picture on a detector's canvas, and finding the way back."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from app.domain import Detections, Image

CANVAS_STEP_PX = 32
"""Sides of a canvas are multiples of this: SCRFD's coarsest stride."""

MARGIN_PX = 192
"""Black kept right of and below the picture on a rectangular canvas. Measured: with less of it SCRFD, which sees that
far, answers for faces near the edge as if they were another picture's (docs/adr/0004-rectangular-canvas.md)."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How a picture lies on a canvas: `canvas = picture * scale`, anchored top-left, the rest black."""

    scale: float
    image_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    """Height and width of the resized picture on the canvas, at least 1."""
    canvas_hw: tuple[int, int]

    @classmethod
    def fit(cls, image_hw: tuple[int, int], max_hw: tuple[int, int], *, rectangular: bool) -> Letterbox:
        """Fit a picture into a canvas, keeping its proportions; small pictures are enlarged.

        Args:
            image_hw: Height and width of the picture, at least 1.
            max_hw: Height and width of the largest canvas, multiples of 32.
            rectangular: Pad by `MARGIN_PX`, to the next multiple of 32, at most to `max_hw`; otherwise to `max_hw`.

        Raises:
            ValueError: A side is not positive, or a canvas side is no multiple of 32.

        Source: `SCRFD._detect_candidates` of insightface 2.1: the shorter side is truncated, not rounded, and one scale
        (that of the height) serves both axes. Unlike there a side never becomes 0 px; where one had to be raised
        to 1 px the other side gives the scale.
        """
        height, width = image_hw
        max_height, max_width = max_hw
        if min(image_hw) < 1 or min(max_hw) < 1 or max_height % CANVAS_STEP_PX or max_width % CANVAS_STEP_PX:
            raise ValueError(f"cannot fit a picture of {image_hw} into a canvas of {max_hw}")
        aspect = height / width
        if aspect > max_height / max_width:
            new_height, new_width = max_height, max(1, int(max_height / aspect))
            scale = new_height / height
        else:
            new_width, new_height = max_width, int(max_width * aspect)
            scale = new_height / height if new_height else new_width / width
            new_height = max(1, new_height)
        if rectangular:
            canvas_hw = (min(_padded(new_height), max_height), min(_padded(new_width), max_width))
        else:
            canvas_hw = max_hw
        return cls(scale, image_hw, (new_height, new_width), canvas_hw)

    @property
    def canvas_shape(self) -> tuple[int, int, int]:
        """Shape of the canvas, (H, W, 3)."""
        return (*self.canvas_hw, 3)

    def apply(self, image: Image, into: Image | None = None) -> Image:
        """Draw the picture on a canvas.

        Args:
            image: (H, W, 3) uint8, of `image_hw`.
            into: The canvas, of `canvas_shape`, uint8; what it shows is drawn over. None makes a new one.

        Returns:
            `canvas_shape` uint8, black right of and below the picture; `into`, where that is given.

        Raises:
            ValueError: `image` is not of `image_hw`, or `into` not of `canvas_shape`.
        """
        if image.shape[:2] != self.image_hw:
            raise ValueError(f"a picture of {image.shape[:2]} on a letterbox for {self.image_hw}")
        canvas = np.empty(self.canvas_shape, np.uint8) if into is None else into
        if canvas.shape != self.canvas_shape:
            raise ValueError(f"a canvas of {canvas.shape} for a letterbox of {self.canvas_shape}")
        height, width = self.resized_hw
        canvas[height:] = 0
        canvas[:height, width:] = 0
        place = canvas[:height, :width]
        if self.resized_hw == self.image_hw:
            place[:] = image
        else:
            # Drawn straight into the canvas: a second array would cost a copy of it.
            cv2.resize(image, (width, height), dst=place, interpolation=cv2.INTER_LINEAR)
        return canvas

    def to_image(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (..., 2) or (N, 4) canvas pixels to picture pixels; a new float32 array."""
        return np.divide(points, self.scale, dtype=np.float32)

    def to_canvas(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (..., 2) or (N, 4) picture pixels to canvas pixels; a new float32 array."""
        return np.multiply(points, self.scale, dtype=np.float32)


def to_source(detections: Detections, letterbox: Letterbox) -> Detections:
    """Map detections from canvas pixels to picture pixels; scores are shared, not copied, and so is all of no face."""
    if len(detections) == 0:
        return detections
    boxes, landmarks = letterbox.to_image(detections.boxes), letterbox.to_image(detections.landmarks)
    return Detections(boxes, detections.scores, landmarks, detections.landmarks_from)


def scaled_canvas(max_hw: tuple[int, int], fraction: float) -> tuple[int, int]:
    """Return the canvas whose sides are `fraction` of those of `max_hw`, each the nearest multiple of 32, at least 32.

    Args:
        max_hw: Height and width, px.
        fraction: Above 0, at most 1.
    """
    height, width = (max(CANVAS_STEP_PX, round(side * fraction / CANVAS_STEP_PX) * CANVAS_STEP_PX) for side in max_hw)
    return height, width


def _padded(side_px: int) -> int:
    return -(-(side_px + MARGIN_PX) // CANVAS_STEP_PX) * CANVAS_STEP_PX
