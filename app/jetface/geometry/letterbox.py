"""Placing a picture on a detector's canvas, and finding the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from jetface.domain import Detections, Image

CANVAS_STEP_PX = 32
"""Sides of a canvas are multiples of this: SCRFD's coarsest stride."""

MARGIN_PX = 192
"""Black kept right of and below the picture on a rectangular canvas. Measured: with less of it SCRFD, which sees that
far, answers for faces near the edge as if they were another picture's (docs/adr/0004-rectangular-canvas.md)."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How a picture lies on a canvas: `canvas = picture * scale`, anchored top-left, the rest of one grey.

    It may lie there turned: then `turned picture * scale`.
    """

    scale: float
    image_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    """Height and width of the resized picture on the canvas, at least 1."""
    canvas_hw: tuple[int, int]
    rotation: int = 0
    """Degrees clockwise by which the picture is turned on the canvas: 0, 90, 180, 270."""

    @classmethod
    def fit(
        cls,
        image_hw: tuple[int, int],
        max_hw: tuple[int, int],
        *,
        rectangular: bool,
        rotation: int = 0,
        max_upscale: float = math.inf,
    ) -> Letterbox:
        """Fit a picture into a canvas, keeping its proportions; small pictures are enlarged.

        Args:
            image_hw: Height and width of the picture, at least 1.
            max_hw: Height and width of the largest canvas, multiples of 32.
            rectangular: Pad by `MARGIN_PX`, to the next multiple of 32, at most to `max_hw`; otherwise to `max_hw`.
            rotation: Degrees clockwise by which the picture is turned: 0, 90, 180, 270.
            max_upscale: Most by which the picture is enlarged, at least 1. One that would fill `max_hw` only beyond
                that has the scale `max_upscale`, and needs no margin.

        Raises:
            ValueError: A side is not positive, or a canvas side is no multiple of 32.

        Source: `SCRFD._detect_candidates` of insightface 2.1: the shorter side is truncated, not rounded, and one scale
        (that of the height) serves both axes. Unlike there a side never becomes 0 px; where one had to be raised
        to 1 px the other side gives the scale.
        """
        height, width = image_hw if rotation % 180 == 0 else image_hw[::-1]
        max_height, max_width = max_hw
        if min(image_hw) < 1 or min(max_hw) < 1 or max_height % CANVAS_STEP_PX or max_width % CANVAS_STEP_PX:
            raise ValueError(f"cannot fit a picture of {image_hw} into a canvas of {max_hw}")
        margin_px = MARGIN_PX
        aspect = height / width
        if max_upscale < min(max_height / height, max_width / width):
            scale = max_upscale
            new_height, new_width = round(height * scale), round(width * scale)
            # It is not placed as insightface places it, so there is nothing for a margin to agree with.
            margin_px = 0
        elif aspect > max_height / max_width:
            new_height, new_width = max_height, max(1, int(max_height / aspect))
            scale = new_height / height
        else:
            new_width, new_height = max_width, int(max_width * aspect)
            scale = new_height / height if new_height else new_width / width
            new_height = max(1, new_height)
        if rectangular:
            canvas_hw = (
                min(_padded(new_height, margin_px), max_height),
                min(_padded(new_width, margin_px), max_width),
            )
        else:
            canvas_hw = max_hw
        return cls(scale, image_hw, (new_height, new_width), canvas_hw, rotation)

    @property
    def canvas_shape(self) -> tuple[int, int, int]:
        """Shape of the canvas, (H, W, 3)."""
        return (*self.canvas_hw, 3)

    def apply(self, image: Image, into: Image | None = None, *, fill: int = 0) -> Image:
        """Draw the picture on a canvas.

        Args:
            image: (H, W, 3) uint8, of `image_hw`.
            into: The canvas, of `canvas_shape`, uint8; what it shows is drawn over. None makes a new one.
            fill: What the rest of the canvas shows, in all channels, [0, 255]; 0 is black.

        Returns:
            `canvas_shape` uint8, the picture at its top-left corner; `into`, where that is given.

        Raises:
            ValueError: `image` is not of `image_hw`, or `into` not of `canvas_shape`.
        """
        if image.shape[:2] != self.image_hw:
            raise ValueError(f"a picture of {image.shape[:2]} on a letterbox for {self.image_hw}")
        canvas = np.empty(self.canvas_shape, np.uint8) if into is None else into
        if canvas.shape != self.canvas_shape:
            raise ValueError(f"a canvas of {canvas.shape} for a letterbox of {self.canvas_shape}")
        height, width = self.resized_hw
        canvas[height:] = fill
        canvas[:height, width:] = fill
        place = canvas[:height, :width]
        if self.rotation:
            # Resized first: the smaller of the two is copied.
            unturned_hw = self.resized_hw if self.rotation == 180 else self.resized_hw[::-1]
            resized = cv2.resize(image, unturned_hw[::-1], interpolation=cv2.INTER_LINEAR)
            place[:] = np.rot90(resized, -self.rotation // 90)
        elif self.resized_hw == self.image_hw:
            place[:] = image
        else:
            # Drawn straight into the canvas: a second array would cost a copy of it.
            cv2.resize(image, (width, height), dst=place, interpolation=cv2.INTER_LINEAR)
        return canvas

    def to_image(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (..., 2) canvas pixels to those of the picture as it is, or (N, 4) boxes; a new float32 array."""
        placed = np.divide(points, self.scale, dtype=np.float32)
        if self.rotation == 0:
            return placed
        x, y = placed[..., 0::2], placed[..., 1::2]
        # Whole numbers are edges of pixels in boxes, and their middles in points: as alignment samples them.
        last = 0 if points.shape[-1] == 4 else 1
        right, bottom = np.float32(self.image_hw[1] - last), np.float32(self.image_hw[0] - last)
        turned = {90: (y, bottom - x), 180: (right - x, bottom - y), 270: (right - y, x)}[self.rotation]
        mapped = np.empty_like(placed)
        mapped[..., 0::2], mapped[..., 1::2] = turned
        return mapped


def to_source(detections: Detections, letterbox: Letterbox) -> Detections:
    """Map detections from canvas pixels to picture pixels; scores are shared, not copied, and so is all of no face.

    Landmarks keep their order: the first is the eye that is left where the face stands upright.
    """
    if len(detections) == 0:
        return detections
    boxes, landmarks = letterbox.to_image(detections.boxes), letterbox.to_image(detections.landmarks)
    if letterbox.rotation:
        boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    return Detections(boxes, detections.scores, landmarks, detections.landmarks_from)


def scaled_canvas(max_hw: tuple[int, int], fraction: float) -> tuple[int, int]:
    """Return the canvas whose sides are `fraction` of those of `max_hw`, each the nearest multiple of 32, at least 32.

    Args:
        max_hw: Height and width, px.
        fraction: Above 0, at most 1.
    """
    height, width = (max(CANVAS_STEP_PX, round(side * fraction / CANVAS_STEP_PX) * CANVAS_STEP_PX) for side in max_hw)
    return height, width


def _padded(side_px: int, margin_px: int) -> int:
    return -(-(side_px + margin_px) // CANVAS_STEP_PX) * CANVAS_STEP_PX
