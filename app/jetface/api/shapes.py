"""Results to answers: the shapes of `wire.md`, key by key.

Numbers stay numpy's: the serialisers write float32 short, and no embedding passes through a Python loop.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from jetface.api.schemas import ExtractFields
from jetface.api.services import RequestDefaults
from jetface.domain import Crop, ExtractOptions, Face, PictureResult, Quality, Vector
from jetface.geometry.alignment import CROP_SIDE_PX

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
