"""The plate families through ONNX Runtime on a CPU: for figures, not for serving."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from training.graphs import Floats, Image, open_session, suppress_overlaps

LETTERBOX: Final = 114
IOU_THRESHOLD: Final = 0.5
ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_"
PADDING: Final = 0.06


@dataclass(frozen=True, slots=True)
class Plates:
    """The plates of one picture, best first: boxes (N, 4) x1, y1, x2, y2 in pixels, scores (N,) in [0, 1]."""

    boxes: Floats
    scores: Floats


class PlateFinder:
    """A graph of the yolo family with one class: (N, 3, S, S), RGB / 255, to (N, 5, cells)."""

    def __init__(self, path: Path, num_threads: int = 1) -> None:
        """Load the graph."""
        self.session = open_session(path, num_threads)
        self.input = self.session.get_inputs()[0]

    def find(self, image: Image, score_threshold: float) -> Plates:
        """Find the plates of one BGR picture, letterboxed in the middle of the canvas."""
        side = self.input.shape[2]
        scale = side / max(image.shape[:2])
        height, width = (round(length * scale) for length in image.shape[:2])
        left, top = (side - width) // 2, (side - height) // 2
        canvas = np.full((side, side, 3), LETTERBOX, np.uint8)
        canvas[top : top + height, left : left + width] = cv2.resize(image, (width, height))
        blob = canvas[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
        (answer,) = np.asarray(self.session.run(None, {self.input.name: blob})[0])
        x, y, w, h, scores = answer[:, answer[4] >= score_threshold]
        corners = np.stack([x - w / 2 - left, y - h / 2 - top, x + w / 2 - left, y + h / 2 - top], 1)
        boxes = np.asarray(corners / scale, np.float32)
        order = suppress_overlaps(boxes, scores, IOU_THRESHOLD)
        return Plates(boxes[order], scores[order])


class PlateReader:
    """The published reader: (N, 3, 64, 128), RGB / 255, to (N, 9, 37) probabilities of `ALPHABET`."""

    def __init__(self, path: Path) -> None:
        """Load the graph."""
        self.session = open_session(path)
        self.input_name = self.session.get_inputs()[0].name

    def read(self, image: Image, box: Floats) -> str:
        """Read the plate in a box (4,) x1, y1, x2, y2 of a BGR picture, padded by 6 % of its sides."""
        margin = (box[2:] - box[:2]) * PADDING
        x1, y1 = np.clip(np.round(box[:2] - margin), 0, None).astype(int)
        x2, y2 = np.round(box[2:] + margin).astype(int)
        crop = cv2.resize(image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)], (128, 64))
        blob = crop[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
        (slots,) = np.asarray(self.session.run(None, {self.input_name: blob})[0])
        return "".join(ALPHABET[index] for index in slots.argmax(1)).rstrip("_")
