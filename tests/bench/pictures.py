"""The pictures a run is measured with, made from the shared ones."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from tests.bench.client import post
from tests.support.pictures import read_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture to measure with."""

    name: str
    path: Path
    faces: int
    canvas_hw: tuple[int, int]
    """The canvas its floor is measured at."""

    def as_json(self, copies: int = 1) -> bytes:
        """A `POST /extract` with the picture as base64 in JSON, `copies` times."""
        text = base64.b64encode(self.path.read_bytes()).decode()
        body = json.dumps({"images": {"data": [text] * copies}, "threshold": 0.5}).encode()
        return post("/extract", body, "application/json")

    def as_raw(self, options: str = "threshold=0.5") -> bytes:
        """A `POST /extract` with the picture itself as the body."""
        return post(f"/extract?{options}", self.path.read_bytes(), "image/jpeg")

    def upside_down(self, folder: Path) -> Picture:
        """Return the picture turned by 180 degrees, drawn into `folder`."""
        path = folder / f"{self.name}_upside_down.jpg"
        cv2.imwrite(str(path), np.rot90(read_image(self.path), 2), [cv2.IMWRITE_JPEG_QUALITY, 90])
        return replace(self, path=path)


def make_pictures(images: Path, folder: Path) -> dict[str, Picture]:
    """Return the one-face, six-face and crowd pictures; the first is drawn into `folder`."""
    portrait = read_image(images / "ifrest_Stallone.jpg")
    height, width = portrait.shape[:2]
    scale = 640 / max(height, width)
    square = np.zeros((640, 640, 3), np.uint8)
    resized = cv2.resize(portrait, (int(width * scale), int(height * scale)))
    square[: resized.shape[0], : resized.shape[1]] = resized
    one = folder / "one_face.jpg"
    cv2.imwrite(str(one), square, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return {
        "one": Picture(name="one", path=one, faces=1, canvas_hw=(640, 640)),
        "six": Picture(name="six", path=images / "t1.jpg", faces=6, canvas_hw=(448, 640)),
        "crowd": Picture(name="crowd", path=images / "ifrest_lumia.jpg", faces=115, canvas_hw=(448, 640)),
    }
