"""The values that travel between layers: images, detections, faces, embeddings.

Array aliases name the shape that numpy's types cannot say. All coordinates are pixels of the picture the value
belongs to, `x` before `y`, origin at the top-left corner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetface.errors import ServiceError

Image: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8 BGR, C-contiguous, EXIF orientation already applied."""

Crop: TypeAlias = NDArray[np.uint8]
"""(112, 112, 3) uint8 BGR, a face aligned to the template."""

Blob: TypeAlias = NDArray[np.float32]
"""(N, C, H, W) float32, normalised as a model wants it."""

Pixels: TypeAlias = NDArray[np.uint8]
"""(N, H, W, 3) uint8 BGR: pictures of one size, as they are."""

Batch: TypeAlias = Blob | Pixels | Sequence[Image]
"""What a graph takes: normalised blobs; or where it was prepared to normalise them itself pixels, as one array or as N
pictures (H, W, 3) of one size, each where it lies."""

Tensor: TypeAlias = NDArray[np.float32]
"""One output of a graph: float32, axis 0 is the batch."""

Boxes: TypeAlias = NDArray[np.float32]
"""(N, 4) float32 `x1, y1, x2, y2`."""

Scores: TypeAlias = NDArray[np.float32]
"""(N,) float32 in [0, 1]."""

Landmarks: TypeAlias = NDArray[np.float32]
"""(N, 5, 2) float32: image-left eye, image-right eye, nose, image-left and image-right mouth corner."""

LandmarksFrom: TypeAlias = Literal["detector", "given", "box"]
"""Who says where landmarks are: the detector; the caller; nobody, they were placed in a box as an upright face has
them."""

Vector: TypeAlias = NDArray[np.float32]
"""(L,) float32 of unit length."""

Rotations: TypeAlias = Literal["none", "auto"]
"""Which turns of a picture the detector looks at: as it is; or all quarter turns where that shows no sure face."""


@dataclass(frozen=True, slots=True)
class ToldAs:
    """Marks a value of numpy with the plain type that callers get, so that one type builds an answer and describes it.

    Serialisers write numpy's values themselves: float32 short, and arrays without a loop in Python.
    """

    kind: Any

    def __get_pydantic_core_schema__(self, _source: Any, handler: Any) -> Any:
        """Let pydantic describe `kind`."""
        return handler.generate_schema(self.kind)


Float: TypeAlias = Annotated[np.float32, ToldAs(float)]
"""A number of an answer."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Faces found in one picture, best score first. Row i of every array is the same face."""

    boxes: Boxes
    scores: Scores
    landmarks: Landmarks
    landmarks_from: NDArray[np.str_] | None = None
    """(N,) of `LandmarksFrom`; None where all are the detector's."""

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.scores)

    @classmethod
    def empty(cls) -> Detections:
        """No face."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32))

    def take(self, indices: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Detections:
        """Return the faces at `indices` (positions, mask or slice), in that order."""
        origins = None if self.landmarks_from is None else self.landmarks_from[indices]
        return Detections(self.boxes[indices], self.scores[indices], self.landmarks[indices], origins)

    @classmethod
    def concatenate(cls, parts: list[Detections]) -> Detections:
        """Join `parts` in order; an empty list gives no face."""
        if not parts:
            return cls.empty()
        origins = None
        if any(part.landmarks_from is not None for part in parts):
            origins = np.concatenate([part.origins() for part in parts])
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.landmarks for part in parts]),
            origins,
        )

    def origins(self) -> NDArray[np.str_]:
        """Return (N,) `landmarks_from`, whoever it is."""
        return np.full(len(self), "detector") if self.landmarks_from is None else self.landmarks_from


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """What a recognizer says of one face."""

    vector: Vector
    norm: float
    """Length of the recognizer's output before it was normalised; low for blurred or turned faces."""


@dataclass(frozen=True, slots=True)
class HeadPose:
    """Where a head is turned to, degrees; 0, 0, 0 looks into the camera."""

    yaw: float
    """Positive to the right edge of the picture, [-90, 90]."""
    pitch: float
    """Positive to the upper edge; beyond 90 only where landmarks are no face's, [-180, 180]."""
    roll: float
    """Positive clockwise as seen in the picture, [-180, 180]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How well a face can be recognized, as far as its pixels and landmarks tell."""

    score: float
    """The worst of what follows, times the share that the picture shows, [0, 1]; see `jetface.geometry.quality`."""
    sharpness: float
    """Variance of the Laplacian of the crop, from 0; about 100 and more for a sharp portrait."""
    brightness: float
    """Mean of the crop, 0 black to 1 white; of this and of sharpness only what shows the picture counts."""
    size_px: float
    """Shorter side of the box, source pixels."""
    pose: HeadPose


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
    landmarks_from: LandmarksFrom | None = None
    """Who says so; as the next, None where there is only a crop."""
    visible: float | None = None
    """Share of the aligned crop that lies within the picture, [0, 1]; the rest of it is black."""
    crop: Crop | None = None
    embedding: Embedding | None = None
    quality: Quality | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What models tell of it, by attribute: the answer that its family describes, None where it cannot be told."""


@dataclass(frozen=True, slots=True, eq=False)
class PlateText:
    """What a reader says of one licence plate."""

    text: str
    """Empty where it reads nothing."""
    certainties: NDArray[np.float32]
    """(L,) the probability of each character of the text, [0, 1]."""

    @property
    def confidence(self) -> float:
        """Mean of these; 0 where the text is empty."""
        return float(self.certainties.mean()) if len(self.certainties) else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plate:
    """One licence plate of an answer."""

    box: NDArray[np.float32]
    """(4,) float32 `x1, y1, x2, y2`, source pixels."""
    score: float
    """The detector's, [0, 1]."""
    reading: PlateText


@dataclass(frozen=True, slots=True, kw_only=True)
class PlateOptions:
    """Which plates of its pictures a request wants."""

    score_threshold: float | None = None
    """Least detector score, [0, 1]; None: what suits the detector."""
    limit: int = 0
    """Keep the N largest plates by box area, largest first; 0 keeps all, best score first."""
    min_width_px: float = 0.0
    """Drop plates whose box is narrower, source pixels: they are not read."""


STAGES = ("decode", "load", "queue", "detect", "align", "recognize", "attributes")
"""What a picture's time is spent on, in order; the fields of `StageTimes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Seconds one picture spent in each stage; waiting for a model and for a place in its queue is told from work."""

    decode_s: float = 0.0
    load_s: float = 0.0
    queue_s: float = 0.0
    detect_s: float = 0.0
    align_s: float = 0.0
    recognize_s: float = 0.0
    attributes_s: float = 0.0
    spans: tuple[tuple[str, float, float], ...] = ()
    """Each stretch of work or waiting: its stage, and what `time.perf_counter()` read when it began and ended."""

    @property
    def total_s(self) -> float:
        """Sum of the stages."""
        return float(sum(getattr(self, f"{stage}_s") for stage in STAGES))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PictureResult:
    """What came of one picture of a request: faces or plates, or the error that failed this picture alone."""

    image_index: int
    faces: tuple[Face, ...] = ()
    plates: tuple[Plate, ...] | None = None
    """None where they were not looked for."""
    error: ServiceError | None = None
    image_hw: tuple[int, int] | None = None
    """Height and width of the source, EXIF orientation applied; None when it never was decoded."""
    detection_scale: float = 1.0
    """Factor by which the source was resized for the detector."""
    rotation: int | None = None
    """Degrees clockwise by which the source has to be turned for its faces to stand upright: 0, 90, 180, 270; None
    where `rotations` is `none`. All coordinates are the source's as it is."""
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
    min_quality: float = 0.0
    """Drop faces whose `Quality.score` is less, [0, 1]; 0 keeps all and measures nothing."""
    rotations: Rotations = "none"
    with_embedding: bool = True
    with_crop: bool = False
    with_quality: bool = False
    attributes: frozenset[str] = frozenset()
    """Which attributes are told, of those that have a model."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KnownFaces:
    """Faces of one picture whose place the caller knows already; exactly one of the two is set."""

    landmarks: Landmarks | None = None
    """(N, 5, 2) float32, source pixels."""
    boxes: Boxes | None = None
    """(N, 4) float32, source pixels."""
    rotations: Rotations = "none"
    """How the detector looks for the faces in `boxes`."""
