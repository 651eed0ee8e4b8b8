"""The values that travel between layers: images, detections, faces, embeddings.

Array aliases name the shape that numpy's types cannot say. All coordinates are pixels of the picture the value
belongs to, `x` before `y`, origin at the top-left corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.errors import ServiceError

Image: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8 BGR, C-contiguous, EXIF orientation already applied."""

Crop: TypeAlias = NDArray[np.uint8]
"""(112, 112, 3) uint8 BGR, a face aligned to the template."""

Blob: TypeAlias = NDArray[np.float32]
"""(N, C, H, W) float32, normalised as a model wants it."""

Tensor: TypeAlias = NDArray[np.float32]
"""One output of a graph: float32, axis 0 is the batch."""

Boxes: TypeAlias = NDArray[np.float32]
"""(N, 4) float32 `x1, y1, x2, y2`."""

Scores: TypeAlias = NDArray[np.float32]
"""(N,) float32 in [0, 1]."""

Landmarks: TypeAlias = NDArray[np.float32]
"""(N, 5, 2) float32: image-left eye, image-right eye, nose, image-left and image-right mouth corner."""

Vector: TypeAlias = NDArray[np.float32]
"""(L,) float32 of unit length."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Faces found in one picture, best score first. Row i of every array is the same face."""

    boxes: Boxes
    scores: Scores
    landmarks: Landmarks

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.scores)

    @classmethod
    def empty(cls) -> Detections:
        """No face."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32))

    def take(self, indices: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Detections:
        """Return the faces at `indices` (positions, mask or slice), in that order."""
        return Detections(self.boxes[indices], self.scores[indices], self.landmarks[indices])

    def scaled(self, factor: float) -> Detections:
        """Return the same faces in a picture `factor` times as large."""
        if factor == 1:
            return self
        return Detections(self.boxes * np.float32(factor), self.scores, self.landmarks * np.float32(factor))

    @classmethod
    def concatenate(cls, parts: list[Detections]) -> Detections:
        """Join `parts` in order; an empty list gives no face."""
        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.landmarks for part in parts]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """What a recognizer says of one face."""

    vector: Vector
    norm: float
    """Length of the recognizer's output before it was normalised; low for blurred or turned faces."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Face:
    """One face of an answer, with what the request asked for."""

    image_index: int
    """Which picture of the request this face was found in; travels with the face from detection on."""
    box: NDArray[np.float32]
    """(4,) float32 `x1, y1, x2, y2`, source pixels."""
    score: float
    landmarks: NDArray[np.float32]
    """(5, 2) float32, source pixels."""
    crop: Crop | None = None
    embedding: Embedding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Seconds one picture spent in each stage; queueing is told apart from work."""

    decode_s: float = 0.0
    queue_s: float = 0.0
    detect_s: float = 0.0
    align_s: float = 0.0
    recognize_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Sum of the stages."""
        return self.decode_s + self.queue_s + self.detect_s + self.align_s + self.recognize_s


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PictureResult:
    """What came of one picture of a request: faces, or the error that failed this picture alone."""

    image_index: int
    faces: tuple[Face, ...] = ()
    error: ServiceError | None = None
    image_hw: tuple[int, int] | None = None
    """Height and width of the source, EXIF orientation applied; None when it never was decoded."""
    detection_scale: float = 1.0
    """Factor by which the source was resized for the detector."""
    times: StageTimes = StageTimes()
    took_s: float = 0.0
    """Wall time from the picture's start to its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractOptions:
    """What a request wants of its pictures; decides what is computed."""

    score_threshold: float
    """Least detector score, [0, 1]."""
    limit_faces: int = 0
    """Keep the N largest faces by box area, largest first; 0 keeps all, best score first."""
    min_face_width_px: float = 0.0
    """Drop faces whose box is narrower, source pixels."""
    with_embedding: bool = True
    with_crop: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KnownFaces:
    """Faces of one picture whose place the caller knows already; exactly one of the two is set."""

    landmarks: Landmarks | None = None
    """(N, 5, 2) float32, source pixels."""
    boxes: Boxes | None = None
    """(N, 4) float32, source pixels."""
