"""The pictures that the service is sent."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tests.support.pictures import decode_image, read_image

_WIDTH_PX, _HEIGHT_PX = 1280, 886


def one_face_jpeg(images: Path) -> bytes:
    """Return a 1280x886 JPEG of one face, drawn from a portrait.

    Args:
        images: Folder with `ifrest_Stallone.jpg`; any other JPEG stands in where it has none.
    """
    portrait = read_image(_portrait(images))
    scale = min(_WIDTH_PX / portrait.shape[1], _HEIGHT_PX / portrait.shape[0])
    resized = cv2.resize(portrait, None, fx=scale, fy=scale)
    picture = np.full((_HEIGHT_PX, _WIDTH_PX, 3), 127, np.uint8)
    picture[: resized.shape[0], : resized.shape[1]] = resized[:_HEIGHT_PX, :_WIDTH_PX]
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def mixed_requests(images: Path) -> list[tuple[str, bytes]]:
    """Return content types and bodies: large and small, several faces and none, formats, and one that is no picture."""
    one = decode_image(one_face_jpeg(images))
    jpegs = [path.read_bytes() for path in sorted(images.glob("*.jpg"))[:4]]
    sizes = [cv2.resize(one, (width, height)) for width, height in ((320, 240), (640, 480), (1000, 1400), (1920, 1080))]
    return [
        *(("image/jpeg", jpeg) for jpeg in jpegs),
        *(("image/jpeg", bytes(cv2.imencode(".jpg", picture)[1])) for picture in sizes),
        ("image/png", bytes(cv2.imencode(".png", sizes[0])[1])),
        ("image/jpeg", bytes(cv2.imencode(".jpg", np.zeros((200, 300, 3), np.uint8))[1])),
        ("image/jpeg", b"this is no picture"),
    ]


def _portrait(images: Path) -> Path:
    wanted = images / "ifrest_Stallone.jpg"
    return wanted if wanted.exists() else min(images.glob("*.jpg"))
