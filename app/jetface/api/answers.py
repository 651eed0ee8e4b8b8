"""Results to answers: the shapes of `wire.md`. What builds an answer is what describes it for OpenAPI.

Numbers stay numpy's: the serialisers write float32 short, and no embedding passes through a Python loop.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, Union, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from jetface.api.requests import CROP_KEYS, OWN_OPTIONS, ExtractWish
from jetface.domain import Crop, Face, Float, PictureResult, Plate, Quality, ToldAs, Vector
from jetface.engines.plan import EngineState
from jetface.geometry.alignment import CROP_SIDE_PX
from jetface.heads.families import NAMED_ANSWERS
from jetface.heads.genderage import GenderAge
from jetface.heads.minifasnet import Liveness
from jetface.heads.seeta_mask import Mask
from jetface.models.store import ModelState

Status = Literal["ok", "failed"]
Rotation = Annotated[
    Literal[0, 90, 180, 270] | None,
    Field(
        description="With `rotations=auto`: degrees clockwise by which the picture has to be turned for its faces to "
        "stand upright."
    ),
]
Millis = Annotated[Float, Field(description="Milliseconds.")]
LandmarksFrom = Annotated[
    Literal["detector", "given", "box"],
    Field(
        description="Whose landmarks aligned the face: the detector's, yours, or an upright face's in the box, a guess "
        "that embeddings are worse for."
    ),
]
Visible = Annotated[
    Float,
    Field(ge=0, le=1, description="Share of the aligned face that lies within the picture; the rest is black."),
]
Embedding = Annotated[
    Vector | str, ToldAs(list[float] | str), Field(description="Numbers, or base64 of little-endian float32.")
]
Box = Annotated[NDArray[np.float32], ToldAs(list[float])]
Points = Annotated[NDArray[Any], ToldAs(list[list[float]])]
NamedAnswer: TypeAlias = Annotated[Mapping[str, Any], ToldAs(Union[NAMED_ANSWERS])]  # noqa: UP007 - of a tuple
"""What a model of a family that is answered by name tells of a face."""
State = Annotated[ModelState, ToldAs(Literal[tuple(state.value for state in ModelState)])]


class ErrorDetail(TypedDict):
    """What went wrong."""

    code: str
    message: str
    details: NotRequired[dict[str, Any]]


class ErrorAnswer(TypedDict):
    """Every answer that is not a success."""

    error: ErrorDetail
    detail: Annotated[str, Field(description="`error.message` once more, where InsightFace-REST has it.")]
    request_id: str


class FacePose(TypedDict):
    """Where a head is turned, degrees, estimated from the landmarks."""

    yaw: Annotated[Float, Field(description="Positive to the right edge of the picture.")]
    pitch: Annotated[Float, Field(description="Positive to the upper edge.")]
    roll: Annotated[Float, Field(description="Positive clockwise.")]


class FaceQuality(TypedDict):
    """How well a face can be recognized, from its pixels and landmarks alone."""

    score: Annotated[
        Float, Field(description="The worst of the others, each from 0 to 1, times `visible` of the face.")
    ]
    sharpness: Annotated[
        Float,
        Field(description="Variance of the Laplacian of what the crop shows of the picture; 25 counts half."),
    ]
    brightness: Annotated[Float, Field(description="Of what the crop shows of the picture, 0 black to 1 white.")]
    size: Annotated[Float, Field(description="Shorter side of the box, source pixels; 80 and more count full.")]
    pose: FacePose


class ExtractFace(GenderAge, Mask, Liveness, total=False):
    """A face of `/extract`; which keys are there depends on the request."""

    status: Annotated[Status, Field(description="With `embed_only` alone.")]
    bbox: Annotated[NDArray[np.int32], ToldAs(list[int])] | None
    prob: Float | None
    num_det: int | None
    scale: Float | None
    size: int | None
    norm: Float | None
    vec: Embedding | None
    quality: FaceQuality | None
    landmarks: Annotated[Points | None, Field(description="Whole numbers, rounded; floats with `landmarks_precise`.")]
    landmarks_from: Annotated[
        LandmarksFrom | None, Field(description="With `landmarks`, and always where it is `box`.")
    ]
    visible: Annotated[Visible | None, Field(description="With `quality`, and always below 0.95.")]
    facedata: Annotated[str | None, Field(description="The aligned 112x112 crop as base64 JPEG, quality 95.")]
    attributes: Annotated[
        dict[str, NamedAnswer | None],
        Field(description="What the models named in `attributes` tell; null where one needs more than a crop."),
    ]
    traceback: Annotated[str, Field(description="With `embed_only` alone: one sentence why the crop failed.")]


class ExtractPicture(TypedDict):
    """One picture of `/extract`."""

    status: Status
    took_ms: Millis
    rotation: NotRequired[Rotation]
    faces: list[ExtractFace]
    traceback: NotRequired[
        Annotated[str | None, Field(description="Inherited name: one sentence why the picture failed.")]
    ]


class Took(TypedDict):
    """Timings of `/extract`; the last two with `verbose_timings`."""

    total_ms: Millis
    read_imgs_ms: NotRequired[Millis | None]
    embed_all_ms: NotRequired[Millis | None]


class ExtractAnswer(TypedDict):
    """Answer of `/extract`; with `embed_only` it has `took_ms` and `status` instead of `took`."""

    took: NotRequired[Took | None]
    took_ms: NotRequired[Millis | None]
    status: NotRequired[Literal["ok"] | None]
    data: list[ExtractPicture]


class SlotError(TypedDict):
    """Why one picture failed."""

    code: str
    message: str


class DetectFace(TypedDict, total=False):
    """A face of `/detect`, source pixels."""

    box: Box | None
    score: Float | None
    landmarks: Points | None
    landmarks_from: LandmarksFrom | None
    visible: Visible | None
    norm: Annotated[Float, Field(description="Of `/compare`: how long the embedding was; low for a poor face.")]


class PictureAnswer(TypedDict):
    """What came of one picture, whatever was looked for."""

    status: Status
    took_ms: Millis
    image_hw: tuple[int, int] | None


class DetectPicture(PictureAnswer):
    """One picture of `/detect`."""

    rotation: NotRequired[Rotation]
    faces: list[DetectFace]
    error: NotRequired[SlotError | None]


class DetectAnswer(TypedDict):
    """Answer of `/detect`."""

    took_ms: Millis
    pictures: list[DetectPicture]


class RecognizeFace(TypedDict, total=False):
    """A face of `/recognize`."""

    embedding: Embedding | None
    norm: Float | None
    box: Box | None
    score: Annotated[Float | None, Field(description="Of boxes: that of the detected face; 0 where there is none.")]
    landmarks_from: Annotated[LandmarksFrom | None, Field(description="Not of pictures that are aligned crops.")]
    visible: Annotated[Visible | None, Field(description="Not of pictures that are aligned crops.")]


class RecognizePicture(PictureAnswer):
    """One picture of `/recognize`."""

    rotation: NotRequired[Rotation]
    faces: list[RecognizeFace]
    error: NotRequired[SlotError | None]


class RecognizeAnswer(TypedDict):
    """Answer of `/recognize`."""

    took_ms: Millis
    pictures: list[RecognizePicture]


class CompareAnswer(TypedDict):
    """Answer of `/compare`; the plural keys when `others` were given."""

    took_ms: Millis
    threshold: Float
    similarity: NotRequired[
        Annotated[Float | None, Field(description="Cosine in [-1, 1]; null where a face is missing.")]
    ]
    is_match: NotRequired[bool | None]
    similarities: NotRequired[list[list[Float | None]] | None]
    matches: NotRequired[list[list[bool]] | None]
    pictures: list[DetectPicture]
    others: NotRequired[list[DetectPicture] | None]


class PlateCharacter(TypedDict):
    """A character of a plate."""

    character: str
    confidence: Float


class PlateAnswer(TypedDict):
    """A licence plate of `/plates`."""

    box: Box
    score: Annotated[Float, Field(description="The detector's.")]
    text: Annotated[str, Field(description="Empty where nothing could be read.")]
    confidence: Annotated[Float, Field(description="Mean of the characters'; 0 where there is none.")]
    characters: list[PlateCharacter]


class PlatesPicture(PictureAnswer):
    """One picture of `/plates`."""

    plates: list[PlateAnswer]
    error: NotRequired[SlotError | None]


class PlatesAnswer(TypedDict):
    """Answer of `/plates`."""

    took_ms: Millis
    pictures: list[PlatesPicture]


class EngineAnswer(TypedDict):
    """The engine of a model: the model compiled for this machine's GPU."""

    state: EngineState
    phase: NotRequired[Annotated[str | None, Field(description="What its build is doing, in TensorRT's words.")]]
    elapsed_s: NotRequired[Annotated[float | None, Field(description="Seconds since its build began.")]]
    reason: NotRequired[Annotated[str | None, Field(description="Why it was rejected.")]]


class ModelAnswer(TypedDict):
    """One registry entry and what has become of it."""

    name: str
    task: str
    family: str
    license: str
    source: str
    state: State
    is_active: Annotated[bool, Field(description="Whether the settings chose it for a stage.")]
    reason: NotRequired[str | None]
    backend: NotRequired[str | None]
    engine: NotRequired[Annotated[EngineAnswer | None, Field(description="Null where no engines can be built.")]]
    is_batch_free: NotRequired[
        Annotated[
            bool | None,
            Field(
                description="Whether a run may take several items. False: its graph may mix them, so each is run "
                "alone. Null: not loaded yet."
            ),
        ]
    ]
    sha256: NotRequired[Annotated[str | None, Field(description="Of the file that serves; null where none does.")]]
    cpu_nodes: NotRequired[
        Annotated[
            Sequence[str],
            ToldAs(list[str]),
            Field(description="Nodes that run on the CPU although a GPU was asked for: operator and name."),
        ]
    ]
    input_hw: NotRequired[tuple[int, int] | None]
    embedding_length: NotRequired[int | None]
    match_threshold: NotRequired[
        Annotated[
            float | None,
            Field(description="Least cosine similarity of one person; null where the entry names none."),
        ]
    ]
    false_match_rate: NotRequired[
        Annotated[
            float | None,
            Field(description="Share of the pairs of two people that reach `match_threshold`; null: not known."),
        ]
    ]


class ModelsAnswer(TypedDict):
    """Answer of `/models`."""

    models: Sequence[ModelAnswer]


class HealthAnswer(TypedDict):
    """Answer of the health routes; 503 when `status` is not the good one."""

    status: Literal["ok", "ready", "alive", "failed"]
    reason: NotRequired[str | None]


class ModelHealth(TypedDict):
    """State of one model in use."""

    state: State
    backend: NotRequired[str | None]
    reason: NotRequired[str | None]
    engine: NotRequired[Annotated[EngineAnswer | None, Field(description="Null where no engines can be built.")]]


class ReadyAnswer(HealthAnswer):
    """Answer of `/health/ready`."""

    models: dict[str, ModelHealth]


FACEDATA_QUALITY = 95
"""JPEG quality of `facedata`: OpenCV's own default, which InsightFace-REST used."""

MOSTLY_VISIBLE = 0.95
"""Share of a crop within the picture below which `/extract` says so unasked."""


def extract_picture(result: PictureResult, wish: ExtractWish) -> ExtractPicture:
    """Return the slot of one picture in `/extract`. Encodes crops: run it in the pool when they are wanted."""
    if result.error is not None:
        return _failed(result)
    faces = [_extract_face(number, face, result, wish) for number, face in enumerate(result.faces)]
    slot = ExtractPicture(status="ok", took_ms=milliseconds(result.took_s), faces=faces)
    if result.rotation is not None:
        slot["rotation"] = cast("Rotation", result.rotation)
    return slot


def extract_crop(result: PictureResult, wish: ExtractWish) -> ExtractPicture:
    """Return the slot of one picture in `/extract` with `embed_only`: a face without the keys of detection.

    The slot is `ok` whatever comes of the picture: a broken one is a face that failed, as in InsightFace-REST.
    """
    keys = wish.keys & CROP_KEYS
    faces = [] if result.error is None else [ExtractFace(status="failed", traceback=result.error.message)]
    for face in result.faces:
        told: ExtractFace = {}
        _tell_models(told, face, wish, keys)
        if "bbox" in keys:
            told["bbox"] = np.array([0, 0, CROP_SIDE_PX, CROP_SIDE_PX], np.int32)
        if "size" in keys:
            told["size"] = CROP_SIDE_PX
        if "prob" in keys:
            told["prob"] = np.float32(1)
        told["status"] = "ok"
        faces.append(told)
    return ExtractPicture(status="ok", took_ms=milliseconds(result.took_s), faces=faces)


def _failed(result: PictureResult) -> ExtractPicture:
    """The field's name is inherited; it holds one sentence for the caller, never a traceback."""
    message = "" if result.error is None else result.error.message
    return ExtractPicture(status="failed", took_ms=milliseconds(result.took_s), faces=[], traceback=message)


def _extract_face(  # noqa: C901 - a step for each key
    number: int, face: Face, result: PictureResult, wish: ExtractWish
) -> ExtractFace:
    keys, visible = wish.keys, face.visible
    told: ExtractFace = {}
    if "bbox" in keys:
        told["bbox"] = np.rint(face.box).astype(np.int32)
    if "prob" in keys:
        told["prob"] = np.float32(face.score)
    if "num_det" in keys:
        told["num_det"] = number
    if "scale" in keys:
        told["scale"] = np.float32(result.detection_scale)
    if "size" in keys:
        told["size"] = int(face.box[2] - face.box[0])
    _tell_models(told, face, wish, keys)
    if "quality" in keys:
        told["quality"] = None if face.quality is None else _quality(face.quality)
    if "landmarks" in keys:
        points = face.landmarks if wish.with_precise_landmarks else np.rint(face.landmarks).astype(np.int32)
        told["landmarks"] = np.ascontiguousarray(points)
    if "facedata" in keys and face.crop is not None:
        told["facedata"] = crop_as_base64_jpeg(face.crop)
    # Why an embedding is worth less is told unasked.
    if "landmarks_from" in keys or (wish.with_warnings and face.landmarks_from == "box"):
        told["landmarks_from"] = face.landmarks_from
    if "visible" in keys or (wish.with_warnings and visible is not None and visible < MOSTLY_VISIBLE):
        told["visible"] = None if visible is None else np.float32(visible)
    return told


def _tell_models(told: ExtractFace, face: Face, wish: ExtractWish, keys: frozenset[str]) -> None:
    """Add what recognizer and attribute models say of a face; null where one was not asked or cannot know."""
    known = face.embedding
    if "norm" in keys:
        told["norm"] = None if known is None else np.float32(known.norm)
    if "vec" in keys:
        told["vec"] = None if known is None else embedding_value(known.vector, is_base64=wish.is_base64)
    for _, task, own_keys in OWN_OPTIONS:
        for key in own_keys:
            if key in keys:
                answer = face.attributes.get(task)
                told[key] = None if answer is None else answer[key]  # type: ignore[literal-required]  # those of a base
    if "attributes" in keys:
        told["attributes"] = {name: face.attributes.get(name) for name in wish.named}


def _quality(quality: Quality) -> FaceQuality:
    pose = quality.pose
    return FaceQuality(
        score=np.float32(quality.score),
        sharpness=np.float32(quality.sharpness),
        brightness=np.float32(quality.brightness),
        size=np.float32(quality.size_px),
        pose=FacePose(yaw=np.float32(pose.yaw), pitch=np.float32(pose.pitch), roll=np.float32(pose.roll)),
    )


def detect_picture(result: PictureResult, keys: frozenset[str]) -> DetectPicture:
    """Return the slot of one picture on `/detect` and `/compare`: source pixels as floats.

    Args:
        result: What came of the picture.
        keys: Of `DetectFace`: those a face has.
    """
    faces = [_detect_face(face, keys) for face in result.faces]
    slot = DetectPicture(status="ok", took_ms=milliseconds(result.took_s), image_hw=result.image_hw, faces=faces)
    _tell_outcome(slot, result)
    return slot


def recognize_picture(result: PictureResult, keys: frozenset[str], *, is_base64: bool) -> RecognizePicture:
    """Return the slot of one picture on `/recognize`.

    Args:
        result: What came of the picture.
        keys: Of `RecognizeFace`: those a face has.
        is_base64: Embeddings as text instead of numbers.
    """
    faces = [_recognize_face(face, keys, is_base64=is_base64) for face in result.faces]
    slot = RecognizePicture(status="ok", took_ms=milliseconds(result.took_s), image_hw=result.image_hw, faces=faces)
    _tell_outcome(slot, result)
    return slot


def plates_picture(result: PictureResult) -> PlatesPicture:
    """Return the slot of one picture on `/plates`."""
    plates = [_plate(plate) for plate in result.plates or ()]
    slot = PlatesPicture(status="ok", took_ms=milliseconds(result.took_s), image_hw=result.image_hw, plates=plates)
    _tell_error(slot, result)
    return slot


def _plate(plate: Plate) -> PlateAnswer:
    reading = plate.reading
    return PlateAnswer(
        box=np.ascontiguousarray(plate.box),
        score=np.float32(plate.score),
        text=reading.text,
        confidence=np.float32(reading.confidence),
        characters=[
            PlateCharacter(character=character, confidence=certainty)
            for character, certainty in zip(reading.text, reading.certainties, strict=True)
        ],
    )


def _tell_outcome(slot: DetectPicture | RecognizePicture, result: PictureResult) -> None:
    """Add what not every picture has: how its faces stand, where that was asked, and an error as in the envelope."""
    if result.rotation is not None:
        slot["rotation"] = cast("Rotation", result.rotation)
    _tell_error(slot, result)


def _tell_error(slot: DetectPicture | RecognizePicture | PlatesPicture, result: PictureResult) -> None:
    if result.error is not None:
        slot["status"] = "failed"
        slot["error"] = SlotError(code=result.error.code, message=result.error.message)


def _detect_face(face: Face, keys: frozenset[str]) -> DetectFace:
    told: DetectFace = {}
    if "box" in keys:
        told["box"] = np.ascontiguousarray(face.box)
    if "score" in keys:
        told["score"] = np.float32(face.score)
    if "landmarks" in keys:
        told["landmarks"] = np.ascontiguousarray(face.landmarks)
    if "landmarks_from" in keys and face.landmarks_from is not None:
        told["landmarks_from"] = face.landmarks_from
    if "visible" in keys and face.visible is not None:
        told["visible"] = np.float32(face.visible)
    if "norm" in keys and face.embedding is not None:
        told["norm"] = np.float32(face.embedding.norm)
    return told


def _recognize_face(face: Face, keys: frozenset[str], *, is_base64: bool) -> RecognizeFace:
    told: RecognizeFace = {}
    if "box" in keys:
        told["box"] = np.ascontiguousarray(face.box)
    if "score" in keys and face.landmarks_from in {"detector", "box"}:
        told["score"] = np.float32(face.score)
    if "landmarks_from" in keys and face.landmarks_from is not None:
        told["landmarks_from"] = face.landmarks_from
    if "visible" in keys and face.visible is not None:
        told["visible"] = np.float32(face.visible)
    if "embedding" in keys and face.embedding is not None:
        told["embedding"] = embedding_value(face.embedding.vector, is_base64=is_base64)
    if "norm" in keys and face.embedding is not None:
        told["norm"] = np.float32(face.embedding.norm)
    return told


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
