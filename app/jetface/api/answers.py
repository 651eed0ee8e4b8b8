"""Results to answers: the shapes of `wire.md`, and their description for OpenAPI.

Numbers stay numpy's: the serialisers write float32 short, and no embedding passes through a Python loop.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from jetface.api.requests import ExtractFields
from jetface.api.services import RequestDefaults
from jetface.domain import Crop, ExtractOptions, Face, PictureResult, Quality, Vector
from jetface.geometry.alignment import CROP_SIDE_PX

Status = Literal["ok", "failed"]
Rotation = Annotated[
    Literal[0, 90, 180, 270] | None,
    Field(
        description="With `rotations=auto`: degrees clockwise by which the picture has to be turned for its faces to "
        "stand upright."
    ),
]
Millis = Annotated[float, Field(description="Milliseconds.")]
LandmarksFrom = Annotated[
    Literal["detector", "given", "box"],
    Field(
        description="Whose landmarks aligned the face: the detector's, yours, or an upright face's in the box, a guess "
        "that embeddings are worse for."
    ),
]
Visible = Annotated[
    float, Field(ge=0, le=1, description="Share of the aligned face that lies within the picture; the rest is black.")
]
Embedding = Annotated[list[float] | str, Field(description="Numbers, or base64 of little-endian float32.")]


class _Answer(BaseModel):
    """Fields serialise by name; `model_` is no reserved prefix here."""

    model_config = ConfigDict(protected_namespaces=())


class ErrorDetail(_Answer):
    """What went wrong."""

    code: str
    message: str
    details: dict[str, Any] = Field(default_factory=dict)


class ErrorAnswer(_Answer):
    """Every answer that is not a success."""

    error: ErrorDetail
    request_id: str


class FacePose(_Answer):
    """Where a head is turned, degrees, estimated from the landmarks."""

    yaw: float = Field(description="Positive to the right edge of the picture.")
    pitch: float = Field(description="Positive to the upper edge.")
    roll: float = Field(description="Positive clockwise.")


class FaceQuality(_Answer):
    """How well a face can be recognized, from its pixels and landmarks alone."""

    score: float = Field(description="The worst of the others, each from 0 to 1, times `visible` of the face.")
    sharpness: float = Field(
        description="Variance of the Laplacian of what the crop shows of the picture; 25 counts half."
    )
    brightness: float = Field(description="Of what the crop shows of the picture, 0 black to 1 white.")
    size: float = Field(description="Shorter side of the box, source pixels; 80 and more count full.")
    pose: FacePose


class ExtractFace(_Answer):
    """A face of `/extract`; which keys are there depends on the request."""

    bbox: list[int] | None = None
    prob: float | None = None
    num_det: int | None = None
    scale: float | None = None
    size: int | None = None
    norm: float | None = None
    vec: Embedding | None = None
    gender: int | None = Field(default=None, description="0 female, 1 male; null where unknown.")
    age: int | None = Field(default=None, description="Years; null where unknown.")
    mask: bool | None = None
    mask_probs: dict[str, float] | None = Field(default=None, description="Of `mask` and `no_mask`.")
    live: float | None = Field(default=None, description="Probability of a live face; null where unknown.")
    is_live: bool | None = Field(default=None, description="Whether that is more likely than any kind of picture.")
    quality: FaceQuality | None = None
    landmarks: list[list[float]] | None = Field(
        default=None, description="Whole numbers, rounded; floats with `landmarks_precise`."
    )
    landmarks_from: LandmarksFrom | None = Field(
        default=None, description="With `landmarks`, and always where it is `box`."
    )
    visible: Visible | None = Field(default=None, description="With `quality`, and always below 0.95.")
    facedata: str | None = Field(default=None, description="The aligned 112x112 crop as base64 JPEG, quality 95.")


class ExtractPicture(_Answer):
    """One picture of `/extract`."""

    status: Status
    took_ms: Millis
    rotation: Rotation = None
    faces: list[ExtractFace]
    traceback: str | None = Field(default=None, description="Inherited name: one sentence why the picture failed.")


class Took(_Answer):
    """Timings of `/extract`; the last two with `verbose_timings`."""

    total_ms: Millis
    read_imgs_ms: Millis | None = None
    embed_all_ms: Millis | None = None


class ExtractAnswer(_Answer):
    """Answer of `/extract`; with `embed_only` it has `took_ms` and `status` instead of `took`."""

    took: Took | None = None
    took_ms: Millis | None = None
    status: Literal["ok"] | None = None
    data: list[ExtractPicture]


class SlotError(_Answer):
    """Why one picture failed."""

    code: str
    message: str


class DetectFace(_Answer):
    """A face of `/detect`, source pixels."""

    box: list[float] | None = None
    score: float | None = None
    landmarks: list[list[float]] | None = None
    landmarks_from: LandmarksFrom | None = None
    visible: Visible | None = None


class DetectPicture(_Answer):
    """One picture of `/detect`."""

    status: Status
    took_ms: Millis
    image_hw: tuple[int, int] | None
    rotation: Rotation = None
    faces: list[DetectFace]
    error: SlotError | None = None


class DetectAnswer(_Answer):
    """Answer of `/detect`."""

    took_ms: Millis
    pictures: list[DetectPicture]


class RecognizeFace(_Answer):
    """A face of `/recognize`."""

    embedding: Embedding | None = None
    norm: float | None = None
    box: list[float] | None = None
    landmarks_from: LandmarksFrom | None = Field(default=None, description="Not of pictures that are aligned crops.")
    visible: Visible | None = Field(default=None, description="Not of pictures that are aligned crops.")


class RecognizePicture(_Answer):
    """One picture of `/recognize`."""

    status: Status
    took_ms: Millis
    image_hw: tuple[int, int] | None
    rotation: Rotation = None
    faces: list[RecognizeFace]
    error: SlotError | None = None


class RecognizeAnswer(_Answer):
    """Answer of `/recognize`."""

    took_ms: Millis
    pictures: list[RecognizePicture]


class CompareAnswer(_Answer):
    """Answer of `/compare`; the plural keys when `others` were given."""

    took_ms: Millis
    threshold: float
    similarity: float | None = Field(default=None, description="Cosine in [-1, 1]; null where a face is missing.")
    is_match: bool | None = None
    similarities: list[list[float | None]] | None = None
    matches: list[list[bool]] | None = None
    pictures: list[DetectPicture]
    others: list[DetectPicture] | None = None


class EngineAnswer(_Answer):
    """The engine of a model: the model compiled for this machine's GPU."""

    state: Literal["absent", "building", "checking", "serving", "rejected"]
    phase: str | None = Field(default=None, description="What its build is doing, in TensorRT's words.")
    elapsed_s: float | None = Field(default=None, description="Seconds since its build began.")
    reason: str | None = Field(default=None, description="Why it was rejected.")


class ModelAnswer(_Answer):
    """One registry entry and what has become of it."""

    name: str
    task: str
    family: str
    license: str
    source: str
    state: Literal["unloaded", "loading", "building", "serving", "failed"]
    is_active: bool = Field(description="Whether the settings chose it for a stage.")
    reason: str | None = None
    backend: str | None = None
    engine: EngineAnswer | None = Field(default=None, description="Null where no engines can be built.")
    is_batch_free: bool | None = Field(
        default=None,
        description="Whether a run may take several items. False: its graph may mix them, so each is run alone. Null: "
        "not loaded yet.",
    )
    sha256: str | None = Field(default=None, description="Of the file that serves; null where none does.")
    cpu_nodes: list[str] = Field(
        default_factory=list, description="Nodes that run on the CPU although a GPU was asked for: operator and name."
    )
    input_hw: tuple[int, int] | None = None
    embedding_length: int | None = None
    match_threshold: float | None = Field(
        default=None, description="Least cosine similarity of one person; null where the entry names none."
    )
    false_match_rate: float | None = Field(
        default=None, description="Share of the pairs of two people that reach `match_threshold`; null: not known."
    )


class ModelsAnswer(_Answer):
    """Answer of `/models`."""

    models: list[ModelAnswer]


class HealthAnswer(_Answer):
    """Answer of the health routes; 503 when `status` is not the good one."""

    status: Literal["ok", "ready", "alive", "failed"]
    reason: str | None = None


class ModelHealth(_Answer):
    """State of one model in use."""

    state: Literal["unloaded", "loading", "building", "serving", "failed"]
    backend: str | None = None
    reason: str | None = None
    engine: EngineAnswer | None = Field(default=None, description="Null where no engines can be built.")


class ReadyAnswer(HealthAnswer):
    """Answer of `/health/ready`."""

    models: dict[str, ModelHealth]


FACEDATA_QUALITY = 95
"""JPEG quality of `facedata`: OpenCV's own default, which InsightFace-REST used."""

MOSTLY_VISIBLE = 0.95
"""Share of a crop within the picture below which `/extract` says so unasked."""

_ALWAYS = frozenset({"bbox", "prob", "num_det", "scale", "size"})
_EMBEDDING = frozenset({"norm", "vec"})
_GENDER_AGE = frozenset({"gender", "age"})
_MASK = frozenset({"mask", "mask_probs"})
_LIVENESS = frozenset({"live", "is_live"})
_RECOGNITION = _EMBEDDING | _GENDER_AGE | _MASK
"""These come together, null where one of them was not asked for."""
_CROP_ONLY = _RECOGNITION | {"bbox", "size", "prob"}


@dataclass(frozen=True, slots=True)
class ExtractWish:
    """What a request to `/extract` wants: the keys of a face, and what has to be computed for them."""

    keys: frozenset[str]
    options: ExtractOptions
    is_base64: bool
    with_warnings: bool
    """Whether what a caller should know of a face is told though nobody asked."""
    with_precise_landmarks: bool


def extract_wish(fields: ExtractFields, defaults: RequestDefaults) -> ExtractWish:
    """Fill in the service's defaults and decide what is computed and returned."""
    if fields.fields is not None:
        keys = computed = frozenset[str](fields.fields)
    else:
        computed = _computed_keys(fields, defaults)
        keys = _ALWAYS | computed | (_RECOGNITION if computed & _RECOGNITION else frozenset())
    return ExtractWish(
        keys=keys,
        options=ExtractOptions(
            score_threshold=_or_default(fields.threshold, defaults.det_thresh),
            limit_faces=fields.limit_faces,
            min_face_width_px=fields.min_face_size,
            min_quality=fields.min_quality,
            rotations=fields.rotations,
            with_embedding=bool(computed & _EMBEDDING),
            with_crop="facedata" in computed,
            with_gender_age=bool(computed & _GENDER_AGE),
            with_mask=bool(computed & _MASK),
            with_liveness=bool(computed & _LIVENESS),
            with_quality="quality" in computed,
        ),
        is_base64=fields.embedding_format == "base64",
        with_warnings=fields.fields is None,
        with_precise_landmarks=fields.landmarks_precise,
    )


def _computed_keys(fields: ExtractFields, defaults: RequestDefaults) -> frozenset[str]:
    """Return the keys the flags of a request ask for, beyond those that are always there."""
    flags = (
        (_or_default(fields.extract_embedding, defaults.extract_embedding), _EMBEDDING),
        (_or_default(fields.extract_ga, defaults.extract_ga), _GENDER_AGE),
        (_or_default(fields.detect_masks, defaults.detect_masks), _MASK),
        (fields.detect_liveness, _LIVENESS),
        (fields.return_quality, {"quality", "visible"}),
        (
            fields.landmarks_precise or _or_default(fields.return_landmarks, defaults.return_landmarks),
            {"landmarks", "landmarks_from"},
        ),
        (_or_default(fields.return_face_data, defaults.return_face_data), {"facedata"}),
    )
    return frozenset(key for is_wanted, keys in flags if is_wanted for key in keys)


def crop_options(wish: ExtractWish) -> ExtractOptions:
    """Return what `embed_only` computes: what is asked for, embeddings where nothing is."""
    return wish.options if wish.keys & _RECOGNITION else replace(wish.options, with_embedding=True)


def _or_default(given: Any, default: Any) -> Any:
    return default if given is None else given


def extract_picture(result: PictureResult, wish: ExtractWish) -> dict[str, Any]:
    """Return the slot of one picture in `/extract`. Encodes crops: run it in the pool when they are wanted."""
    if result.error is not None:
        return _failed(result)
    faces = [_extract_face(number, face, result, wish) for number, face in enumerate(result.faces)]
    return {"status": "ok", "took_ms": milliseconds(result.took_s), **_rotation(result), "faces": faces}


def _rotation(result: PictureResult) -> dict[str, int]:
    """Return what is said of a picture whose turns were asked for; others know nothing of it."""
    return {} if result.rotation is None else {"rotation": result.rotation}


def extract_crop(result: PictureResult, wish: ExtractWish) -> dict[str, Any]:
    """Return the slot of one picture in `/extract` with `embed_only`: a face without the keys of detection."""
    if result.error is not None:
        return _failed(result)
    whole = np.array([0, 0, CROP_SIDE_PX, CROP_SIDE_PX], np.int32)
    fixed = {"bbox": whole, "size": CROP_SIDE_PX, "prob": np.float32(1)}
    keys = wish.keys & _CROP_ONLY if wish.keys & _RECOGNITION else _CROP_ONLY
    faces = [_pick({**_recognition(face, wish), **fixed}, keys) | {"status": "ok"} for face in result.faces]
    return {"status": "ok", "took_ms": milliseconds(result.took_s), "faces": faces}


def _failed(result: PictureResult) -> dict[str, Any]:
    """The field's name is inherited; it holds one sentence for the caller, never a traceback."""
    message = "" if result.error is None else result.error.message
    return {"status": "failed", "took_ms": milliseconds(result.took_s), "faces": [], "traceback": message}


def _extract_face(number: int, face: Face, result: PictureResult, wish: ExtractWish) -> dict[str, Any]:
    described: dict[str, Any] = {
        "bbox": np.rint(face.box).astype(np.int32),
        "prob": np.float32(face.score),
        "num_det": number,
        "scale": np.float32(result.detection_scale),
        "size": int(face.box[2] - face.box[0]),
        **_recognition(face, wish),
    }
    if wish.keys & _LIVENESS:
        described["live"] = None if face.liveness is None else np.float32(face.liveness.probability)
        described["is_live"] = None if face.liveness is None else face.liveness.is_live
    if "quality" in wish.keys:
        described["quality"] = None if face.quality is None else _quality(face.quality)
    if "landmarks" in wish.keys:
        points = face.landmarks if wish.with_precise_landmarks else np.rint(face.landmarks).astype(np.int32)
        described["landmarks"] = np.ascontiguousarray(points)
    if "facedata" in wish.keys and face.crop is not None:
        described["facedata"] = crop_as_base64_jpeg(face.crop)
    described["landmarks_from"] = face.landmarks_from
    described["visible"] = None if face.visible is None else np.float32(face.visible)
    return _pick(described, wish.keys | _warnings(face) if wish.with_warnings else wish.keys)


def _warnings(face: Face) -> frozenset[str]:
    """Return the keys that say why an embedding is worth less."""
    keys = {"landmarks_from"} if face.landmarks_from == "box" else set()
    if face.visible is not None and face.visible < MOSTLY_VISIBLE:
        keys.add("visible")
    return frozenset(keys)


def _recognition(face: Face, wish: ExtractWish) -> dict[str, Any]:
    known, gender_age, mask = face.embedding, face.gender_age, face.mask
    return {
        "norm": None if known is None else np.float32(known.norm),
        "vec": None if known is None else embedding_value(known.vector, is_base64=wish.is_base64),
        "gender": None if gender_age is None else int(gender_age.is_male),
        "age": None if gender_age is None else gender_age.age_years,
        "mask": None if mask is None else mask.is_worn,
        "mask_probs": None if mask is None else _mask_probs(mask.probability),
    }


def _mask_probs(probability: float) -> dict[str, np.float32]:
    return {"mask": np.float32(probability), "no_mask": np.float32(1 - probability)}


def _quality(quality: Quality) -> dict[str, Any]:
    pose = quality.pose
    return {
        "score": np.float32(quality.score),
        "sharpness": np.float32(quality.sharpness),
        "brightness": np.float32(quality.brightness),
        "size": np.float32(quality.size_px),
        "pose": {"yaw": np.float32(pose.yaw), "pitch": np.float32(pose.pitch), "roll": np.float32(pose.roll)},
    }


def _pick(described: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in described.items() if key in keys}


def described_picture(result: PictureResult, keys: frozenset[str], *, is_base64: bool = False) -> dict[str, Any]:
    """Return the slot of one picture on our own routes: source pixels as floats, an error as in the envelope.

    Args:
        result: What came of the picture.
        keys: Of `box`, `score`, `landmarks`, `landmarks_from`, `visible`, `embedding`, `norm`: those a face has.
        is_base64: Embeddings as text instead of numbers.
    """
    slot: dict[str, Any] = {
        "status": "ok" if result.error is None else "failed",
        "took_ms": milliseconds(result.took_s),
        "image_hw": result.image_hw,
        **_rotation(result),
        "faces": [_described_face(face, keys, is_base64=is_base64) for face in result.faces],
    }
    if result.error is not None:
        slot["error"] = {"code": result.error.code, "message": result.error.message}
    return slot


def _described_face(face: Face, keys: frozenset[str], *, is_base64: bool) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if "box" in keys:
        described["box"] = np.ascontiguousarray(face.box)
    if "score" in keys:
        described["score"] = np.float32(face.score)
    if "landmarks" in keys:
        described["landmarks"] = np.ascontiguousarray(face.landmarks)
    if "landmarks_from" in keys and face.landmarks_from is not None:
        described["landmarks_from"] = face.landmarks_from
    if "visible" in keys and face.visible is not None:
        described["visible"] = np.float32(face.visible)
    if "embedding" in keys and face.embedding is not None:
        described["embedding"] = embedding_value(face.embedding.vector, is_base64=is_base64)
    if "norm" in keys and face.embedding is not None:
        described["norm"] = np.float32(face.embedding.norm)
    return described


def embedding_value(vector: Vector, *, is_base64: bool) -> Vector | str:
    """Return an embedding as the serialisers take it: a contiguous array, or base64 of little-endian float32."""
    if is_base64:
        return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")
    return np.ascontiguousarray(vector)


def crop_as_base64_jpeg(crop: Crop) -> str:
    """Encode a crop as `facedata` has it."""
    _, encoded = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, FACEDATA_QUALITY])
    return base64.b64encode(encoded.tobytes()).decode("ascii")


def num_faces(results: Sequence[PictureResult]) -> int:
    """Count the faces of all pictures."""
    return sum(len(result.faces) for result in results)


def milliseconds(seconds: float) -> np.float32:
    """Return seconds as the milliseconds of an answer."""
    rounded: np.float32 = np.float32(round(seconds * 1e3, 3))
    return rounded
