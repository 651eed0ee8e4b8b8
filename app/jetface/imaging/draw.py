"""Faces drawn onto their picture: boxes, landmarks, scores, sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from jetface.domain import Face, Image
from jetface.errors import ImageTooLargeError

MAX_JPEG_SIDE_PX = 65_500
"""libjpeg's own limit (JPEG_MAX_DIMENSION); PNG and BMP have wider pictures."""

JPEG_QUALITY = 90
"""Quality of a drawn picture: text and thin lines stay clean."""

_BOX_BGR = (70, 190, 60)
_LANDMARKS_BGR = ((60, 60, 230), (230, 60, 60), (60, 220, 230), (60, 60, 230), (230, 60, 60))
"""In the order of landmarks; what is on the image's left is red, on its right blue."""
_TEXT_BGR = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_DEFAULT_PX = 1000
"""Longer side of a picture that is drawn on with lines one or two pixels wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawOptions:
    """What is drawn beside the boxes."""

    with_landmarks: bool = True
    with_scores: bool = True
    with_sizes: bool = False
    """The box's width, source pixels."""


def draw_faces(image: Image, faces: Iterable[Face], options: DrawOptions) -> Image:
    """Return a copy of `image` with `faces` drawn on it; lines grow with the picture.

    Args:
        image: (H, W, 3) uint8 BGR.
        faces: In its pixels.
        options: What to draw.
    """
    drawn: Image = image.copy()
    stroke_px = max(1, round(2 * max(image.shape[:2]) / _DEFAULT_PX))
    for face in faces:
        top_left, bottom_right = _pixels(face.box.reshape(2, 2))
        cv2.rectangle(drawn, top_left, bottom_right, _BOX_BGR, stroke_px, cv2.LINE_AA)
        if options.with_landmarks:
            for center, color in zip(_pixels(face.landmarks), _LANDMARKS_BGR, strict=True):
                cv2.circle(drawn, center, stroke_px + 1, color, cv2.FILLED, cv2.LINE_AA)
        words = [f"{face.score:.2f}"] if options.with_scores else []
        if options.with_sizes:
            words.append(f"{int(face.box[2] - face.box[0])} px")
        if words:
            _write_above(drawn, " ".join(words), *top_left, stroke_px)
    return drawn


def encode_jpeg(image: Image) -> bytes:
    """Encode a picture as JPEG.

    Raises:
        ImageTooLargeError: A side is longer than a JPEG may be.
    """
    if max(image.shape[:2]) > MAX_JPEG_SIDE_PX:
        raise ImageTooLargeError(
            f"The picture cannot be answered as a JPEG: a side is longer than {MAX_JPEG_SIDE_PX} pixels.",
            max_side_px=MAX_JPEG_SIDE_PX,
        )
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(encoded.tobytes())


def _pixels(points: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Round (N, 2) points to whole pixels, within what OpenCV can draw."""
    return [(x, y) for x, y in np.clip(np.rint(points), -32768, 32767).astype(int).tolist()]


def _write_above(image: Image, text: str, x: int, y: int, stroke_px: int) -> None:
    """Write on a filled label that stays inside the picture."""
    size = 0.25 + 0.12 * stroke_px
    (width, height), baseline = cv2.getTextSize(text, _FONT, size, max(1, stroke_px // 2))
    bottom = max(y, height + baseline + 1)
    left = max(0, min(x, image.shape[1] - width))
    cv2.rectangle(image, (left, bottom - height - baseline - 1), (left + width, bottom), _BOX_BGR, cv2.FILLED)
    cv2.putText(image, text, (left, bottom - baseline), _FONT, size, _TEXT_BGR, max(1, stroke_px // 2), cv2.LINE_AA)
