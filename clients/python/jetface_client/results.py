"""What calls return: frozen values, coordinates in source pixels, vectors as numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How well a face can be recognized, from its pixels and landmarks."""

    score: float
    """The worst of what follows, each as a share of 1, times `Face.visible`."""
    sharpness: float
    """Variance of the crop's Laplacian."""
    brightness: float
    """0 black to 1 white."""
    size_px: float
    """Shorter side of the box, source pixels."""
    yaw: float
    """Degrees, positive to the right edge of the picture."""
    pitch: float
    """Degrees, positive to the upper edge."""
    roll: float
    """Degrees, positive clockwise."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Face:
    """One face. What was not asked for, or is not known, is None."""

    box: NDArray[np.float32] | None = None
    """(4,) float32 `x1, y1, x2, y2`, source pixels; whole numbers from `extract`."""
    score: float | None = None
    """The detector's, [0, 1]."""
    landmarks: NDArray[np.float32] | None = None
    """(5, 2) float32 `x, y`: image-left eye, image-right eye, nose, image-left and image-right mouth corner."""
    landmarks_from: str | None = None
    """Whose landmarks aligned the face: `detector`; `given`, by you; `box`, a guess that embeddings are worse for."""
    visible: float | None = None
    """Share of the aligned face that lies within the picture, [0, 1]; the rest is black. `extract` tells it with
    `quality`, and where it is below 0.95."""
    embedding: NDArray[np.float32] | None = None
    """(L,) float32 of unit length: the dot product of two is their cosine similarity."""
    norm: float | None = None
    """Length of the embedding before it was normalised; low for blurred or turned faces."""
    gender: int | None = None
    """0 female, 1 male."""
    age: int | None = None
    """Years."""
    has_mask: bool | None = None
    mask_probability: float | None = None
    is_live: bool | None = None
    """Whether a live face is more likely than any kind of picture of one."""
    live_probability: float | None = None
    attributes: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    """What each of `ExtractOptions.attributes` is, as the service tells it: of a classifier `label`, `score` and
    `scores`; None where a crop alone does not show it."""
    quality: Quality | None = None
    crop_jpeg: bytes | None = None
    """The aligned 112x112 crop as JPEG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFailure:
    """Why one picture could not be looked at."""

    message: str
    code: str | None = None
    """The service's error code where the route tells it; `unreadable_file` for a file this side could not read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """What came of one picture; no face found is an empty tuple, not a failure."""

    faces: tuple[Face, ...] = ()
    """Best score first; largest first when their number was limited."""
    failure: PictureFailure | None = None
    image_hw: tuple[int, int] | None = None
    """Height and width, EXIF orientation applied; `extract` does not tell it."""
    rotation: int | None = None
    """Degrees clockwise by which it has to be turned for its faces to stand upright, where `rotations` was `auto`.
    Coordinates are the picture's as it is."""
    took_ms: float = 0.0
    """Milliseconds the service worked on it."""

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """(N, L) float32, row i of face i; (0, 0) without faces.

        Raises:
            ValueError: Embeddings were not asked for.
        """
        vectors = [face.embedding for face in self.faces if face.embedding is not None]
        if len(vectors) != len(self.faces):
            raise ValueError("these faces have no embeddings")
        return np.stack(vectors) if vectors else np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plate:
    """One licence plate."""

    box: NDArray[np.float32]
    """(4,) float32 `x1, y1, x2, y2`, source pixels."""
    score: float
    """The detector's, [0, 1]."""
    text: str
    """Empty where nothing could be read."""
    confidence: float
    """Mean of the characters', [0, 1]; 0 where there is none."""
    confidences: tuple[float, ...]
    """Of each character of the text."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlatesPicture:
    """What came of one picture; no plate found is an empty tuple, not a failure."""

    plates: tuple[Plate, ...] = ()
    """Best score first; largest first when their number was limited."""
    failure: PictureFailure | None = None
    image_hw: tuple[int, int] | None = None
    """Height and width, EXIF orientation applied."""
    took_ms: float = 0.0
    """Milliseconds the service worked on it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """The largest face of one picture against the largest of another."""

    similarity: float | None
    """Cosine, [-1, 1]; None where a picture has no face, or failed."""
    is_match: bool | None
    """Whether `similarity` reaches `threshold`."""
    threshold: float
    pictures: tuple[Picture, Picture]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparisonMatrix:
    """The largest face of each of N pictures against that of each of M others."""

    similarities: NDArray[np.float32]
    """(N, M) float32 cosines; NaN where a picture has no face, or failed."""
    matches: NDArray[np.bool_]
    """(N, M) bool: whether the similarity reaches `threshold`."""
    threshold: float
    pictures: tuple[Picture, ...]
    others: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What runs there."""

    version: str
    detector: str | None
    recognizer: str | None
    """Whose embeddings can be compared with one another; None when the service only detects."""
    match_threshold: float | None
    """Least cosine similarity of one person, where `compare` is given none; None when the service only detects."""
    false_match_rate: float | None
    """Share of the pairs of two people that reach it; None where it is not known."""
    raw: Mapping[str, Any]
    """The whole answer."""
    attributes: tuple[str, ...] = ()
    """What can be asked for in `ExtractOptions.attributes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of the service's registry."""

    name: str
    task: str
    state: str
    """`unloaded`, `loading`, `building`, `serving` or `failed`."""
    is_active: bool
    """Whether the service's settings chose it."""
    license: str
    embedding_length: int | None
    backend: str | None
    match_threshold: float | None
    """Of a recognizer: least cosine similarity of one person; None where its entry names none."""
    false_match_rate: float | None
    """Share of the pairs of two people that reach it; None where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether requests can be served now."""

    is_ready: bool
    reason: str | None
    states: Mapping[str, str]
    """State of each model in use, by name."""
