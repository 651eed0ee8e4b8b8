"""The two model families through ONNX Runtime on a CPU: for labels and for figures, not for serving."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from training.alignment import CROP_PX, TEMPLATE, similarity

STRIDES: Final = (8, 16, 32)
IOU_THRESHOLD: Final = 0.4

Image: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]


def open_session(path: Path, num_threads: int = 1) -> ort.InferenceSession:
    """Load a graph on the CPU with as many threads as given."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3  # the published files annotate one shape and run many: a warning on every run
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True, slots=True)
class Faces:
    """The faces of one picture, best first.

    Attributes:
        boxes: (N, 4) x1, y1, x2, y2 in pixels of the picture.
        scores: (N,) in [0, 1].
        landmarks: (N, 5, 2) x, y in pixels of the picture.
    """

    boxes: Floats
    scores: Floats
    landmarks: Floats

    def at_least(self, score_threshold: float) -> "Faces":
        """Keep the faces that score at least the threshold."""
        kept = self.scores >= score_threshold
        return Faces(self.boxes[kept], self.scores[kept], self.landmarks[kept])


def letterbox(image: Image, canvas_px: int) -> tuple[Image, float]:
    """Fit a picture into the top left of a square black canvas.

    Returns:
        (canvas_px, canvas_px, 3) BGR and the scale: canvas = picture * scale. Bilinear, as InsightFace does it.
    """
    height, width = image.shape[:2]
    scale = canvas_px / max(height, width)
    resized = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
    canvas = np.zeros((canvas_px, canvas_px, 3), np.uint8)
    canvas[: resized.shape[0], : resized.shape[1]] = resized
    return canvas, scale


def anchor_centers(canvas_hw: tuple[int, int], stride: int, num_anchors: int) -> Floats:
    """(anchors, 2) x, y of the anchors in pixels: rows first, `num_anchors` a cell, at the cell's top left corner."""
    height, width = canvas_hw[0] // stride, canvas_hw[1] // stride
    ys, xs = np.mgrid[:height, :width]
    centers = np.stack([xs, ys], -1).reshape(-1, 2) * stride
    return np.repeat(centers, num_anchors, 0).astype(np.float32)


def suppress_overlaps(boxes: Floats, scores: Floats, iou_threshold: float = IOU_THRESHOLD) -> NDArray[np.intp]:
    """Indices of the boxes that no better kept box overlaps by more than the threshold, best first."""
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[iou(boxes[best : best + 1], boxes[rest])[0] <= iou_threshold]
    return np.array(kept, np.intp)


def iou(a: Floats, b: Floats) -> Floats:
    """(N, M) intersection over union of boxes (N, 4) with boxes (M, 4); continuous areas."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(bottom_right - top_left, 0, None).prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    return np.asarray(shared / (areas[0][:, None] + areas[1][None] - shared + 1e-9), np.float32)


class Detector:
    """A graph of the scrfd family: nine outputs, scores, boxes and landmarks at strides 8, 16 and 32."""

    def __init__(self, path: Path, num_threads: int = 1) -> None:
        """Load the graph."""
        self.session = open_session(path, num_threads)
        self.input_name = self.session.get_inputs()[0].name

    def detect(self, image: Image, canvas_px: int, score_threshold: float) -> Faces:
        """Find the faces of one picture on a square canvas of the given side, a multiple of 32."""
        canvas, scale = letterbox(image, canvas_px)
        blob = (canvas[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 128
        outputs = self.session.run(None, {self.input_name: blob})
        return decode([np.asarray(o) for o in outputs], (canvas_px, canvas_px), scale, score_threshold)


def decode(outputs: list[Floats], canvas_hw: tuple[int, int], scale: float, score_threshold: float) -> Faces:
    """Turn the nine outputs for one picture into faces.

    Args:
        outputs: Scores, boxes, landmarks, each for strides 8, 16, 32, as (anchors, C) or (1, anchors, C).
        canvas_hw: Height and width of the canvas in pixels.
        scale: Canvas pixels a picture pixel.
        score_threshold: Lowest score to keep.

    Source: Guo et al. 2021, "Sample and Computation Redistribution for Efficient Face Detection"; distances are in
    units of the stride, left, top, right, bottom of the anchor.
    """
    boxes, scores, landmarks = [], [], []
    for level, stride in enumerate(STRIDES):
        score = outputs[level].reshape(-1)
        kept = np.flatnonzero(score >= score_threshold)
        num_anchors = len(score) // (canvas_hw[0] // stride * (canvas_hw[1] // stride))
        center = anchor_centers(canvas_hw, stride, num_anchors)[kept]
        distance = outputs[3 + level].reshape(-1, 4)[kept] * stride
        boxes.append(np.concatenate([center - distance[:, :2], center + distance[:, 2:]], 1))
        landmarks.append(center[:, None] + outputs[6 + level].reshape(-1, 5, 2)[kept] * stride)
        scores.append(score[kept])
    all_boxes, all_scores = np.concatenate(boxes) / np.float32(scale), np.concatenate(scores)
    order = suppress_overlaps(all_boxes, all_scores)
    return Faces(all_boxes[order], all_scores[order], (np.concatenate(landmarks) / np.float32(scale))[order])


def align(image: Image, landmarks: Floats) -> Image:
    """Cut the crop of one face.

    Args:
        image: (H, W, 3) BGR.
        landmarks: (5, 2) x, y in pixels of `image`.

    Returns:
        (112, 112, 3) BGR; black where the crop leaves the picture.
    """
    crop = cv2.warpAffine(image, similarity(landmarks, TEMPLATE), (CROP_PX, CROP_PX), flags=cv2.INTER_LINEAR)
    return crop.astype(np.uint8, copy=False)


class Recognizer:
    """A graph of the arcface family: (N, 3, 112, 112) to (N, length)."""

    def __init__(self, path: Path, num_threads: int = 1) -> None:
        """Load the graph."""
        self.session = open_session(path, num_threads)
        self.input_name = self.session.get_inputs()[0].name

    def embed(self, crops: Image, batch: int = 16) -> Floats:
        """Unit embeddings (N, length) of crops (N, 112, 112, 3) BGR."""
        parts = []
        for start in range(0, len(crops), batch):
            blob = (crops[start : start + batch, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5
            parts.append(np.asarray(self.session.run(None, {self.input_name: blob})[0], np.float32))
        embeddings = np.concatenate(parts)
        return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), np.float32)
