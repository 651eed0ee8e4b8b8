"""Results to answers: the shapes of `wire.md`, key by key.

Numbers stay numpy's: the serialisers write float32 short, and no embedding passes through a Python loop.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from app.api.schemas import ExtractFields
from app.api.services import RequestDefaults
from app.domain import Crop, ExtractOptions, Face, PictureResult, Vector
from app.geometry.alignment import CROP_SIDE_PX

FACEDATA_QUALITY = 95
"""JPEG quality of `facedata`: OpenCV's own default, which InsightFace-REST used."""

_ATTRIBUTES: Mapping[str, None] = {"gender": None, "age": None, "mask": None, "mask_probs": None}
"""What an attribute stage would fill in; null where it is unknown."""

_ALWAYS = frozenset({"bbox", "prob", "num_det", "scale", "size"})
_RECOGNITION = frozenset({"norm", "vec", *_ATTRIBUTES})
_CROP_ONLY = _RECOGNITION | {"bbox", "size", "prob"}


@dataclass(frozen=True, slots=True)
class ExtractWish:
    """What a request to `/extract` wants: the keys of a face, and what has to be computed for them."""

    keys: frozenset[str]
    options: ExtractOptions
    is_base64: bool


def extract_wish(fields: ExtractFields, defaults: RequestDefaults) -> ExtractWish:
    """Fill in the service's defaults and decide what is computed and returned."""
    wants_embedding = _or_default(fields.extract_embedding, defaults.extract_embedding)
    if fields.fields is not None:
        keys = frozenset[str](fields.fields)
    else:
        wants_attributes = _or_default(fields.extract_ga, defaults.extract_ga) or _or_default(
            fields.detect_masks, defaults.detect_masks
        )
        keys = _ALWAYS
        if wants_embedding or wants_attributes:
            keys |= _RECOGNITION
        if _or_default(fields.return_landmarks, defaults.return_landmarks):
            keys |= {"landmarks"}
        if _or_default(fields.return_face_data, defaults.return_face_data):
            keys |= {"facedata"}
    return ExtractWish(
        keys=keys,
        options=ExtractOptions(
            score_threshold=_or_default(fields.threshold, defaults.det_thresh),
            limit_faces=fields.limit_faces,
            min_face_width_px=fields.min_face_size,
            with_embedding=bool(keys & {"norm", "vec"}) and (wants_embedding or fields.fields is not None),
            with_crop="facedata" in keys,
        ),
        is_base64=fields.embedding_format == "base64",
    )


def _or_default(given: Any, default: Any) -> Any:
    return default if given is None else given


def extract_picture(result: PictureResult, wish: ExtractWish) -> dict[str, Any]:
    """Return the slot of one picture in `/extract`. Encodes crops: run it in the pool when they are wanted."""
    if result.error is not None:
        return _failed(result)
    faces = [_extract_face(number, face, result, wish) for number, face in enumerate(result.faces)]
    return {"status": "ok", "took_ms": milliseconds(result.took_s), "faces": faces}


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
        # Truncated, not rounded, as InsightFace-REST does.
        "bbox": face.box.astype(np.int32),
        "prob": np.float32(face.score),
        "num_det": number,
        "scale": np.float32(result.detection_scale),
        "size": int(face.box[2] - face.box[0]),
        **_recognition(face, wish),
    }
    if "landmarks" in wish.keys:
        described["landmarks"] = face.landmarks.astype(np.int32)
    if "facedata" in wish.keys and face.crop is not None:
        described["facedata"] = crop_as_base64_jpeg(face.crop)
    return _pick(described, wish.keys)


def _recognition(face: Face, wish: ExtractWish) -> dict[str, Any]:
    known = face.embedding
    return {
        "norm": None if known is None else np.float32(known.norm),
        "vec": None if known is None else embedding_value(known.vector, is_base64=wish.is_base64),
        **_ATTRIBUTES,
    }


def _pick(described: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in described.items() if key in keys}


def described_picture(result: PictureResult, keys: frozenset[str], *, is_base64: bool = False) -> dict[str, Any]:
    """Return the slot of one picture on our own routes: source pixels as floats, an error as in the envelope.

    Args:
        result: What came of the picture.
        keys: Of `box`, `score`, `landmarks`, `embedding`, `norm`: those a face has.
        is_base64: Embeddings as text instead of numbers.
    """
    slot: dict[str, Any] = {
        "status": "ok" if result.error is None else "failed",
        "took_ms": milliseconds(result.took_s),
        "image_hw": result.image_hw,
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
