"""Answers to results. What a missing key or a wrong type raises here, `exchange` turns into `AnswerError`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jetface_client.errors import PictureError
from jetface_client.results import (
    Comparison,
    ComparisonMatrix,
    Face,
    Info,
    Model,
    Picture,
    PictureFailure,
    Plate,
    PlatesPicture,
    Quality,
    Readiness,
)

AnyPicture = TypeVar("AnyPicture", Picture, PlatesPicture)


def only(pictures: list[AnyPicture]) -> AnyPicture:
    """Return the one picture of an answer.

    Raises:
        PictureError: It failed.
    """
    (picture,) = pictures
    if picture.failure is not None:
        raise PictureError(picture.failure.message, code=picture.failure.code)
    return picture


def read_extracted(answer: Any) -> list[Picture]:
    """Read `/extract`, which has names of its own."""
    return [
        Picture(
            faces=tuple(map(_read_extracted_face, slot["faces"])),
            failure=None if slot["status"] == "ok" else PictureFailure(message=str(slot.get("traceback", ""))),
            rotation=slot.get("rotation"),
            took_ms=float(slot["took_ms"]),
        )
        for slot in answer["data"]
    ]


def _read_extracted_face(face: Mapping[str, Any]) -> Face:
    crop = face.get("facedata")
    return Face(
        box=_points(face.get("bbox")),
        score=face.get("prob"),
        landmarks=_points(face.get("landmarks")),
        landmarks_from=face.get("landmarks_from"),
        visible=face.get("visible"),
        embedding=read_vector(face.get("vec")),
        norm=face.get("norm"),
        gender=face.get("gender"),
        age=face.get("age"),
        has_mask=face.get("mask"),
        mask_probability=(face.get("mask_probs") or {}).get("mask"),
        is_live=face.get("is_live"),
        live_probability=face.get("live"),
        attributes=face.get("attributes", {}),
        quality=_read_quality(face.get("quality")),
        crop_jpeg=None if crop is None else base64.b64decode(crop, validate=True),
    )


def _read_quality(value: Mapping[str, Any] | None) -> Quality | None:
    if value is None:
        return None
    pose = value["pose"]
    return Quality(
        score=value["score"],
        sharpness=value["sharpness"],
        brightness=value["brightness"],
        size_px=value["size"],
        yaw=pose["yaw"],
        pitch=pose["pitch"],
        roll=pose["roll"],
    )


def read_pictures(answer: Any) -> list[Picture]:
    """Read `/detect` and `/recognize`."""
    return [_read_picture(slot) for slot in answer["pictures"]]


def _read_picture(slot: Mapping[str, Any]) -> Picture:
    return Picture(
        faces=tuple(
            Face(
                box=_points(face.get("box")),
                score=face.get("score"),
                landmarks=_points(face.get("landmarks")),
                landmarks_from=face.get("landmarks_from"),
                visible=face.get("visible"),
                embedding=read_vector(face.get("embedding")),
                norm=face.get("norm"),
            )
            for face in slot["faces"]
        ),
        failure=_read_failure(slot),
        image_hw=_read_size(slot),
        rotation=slot.get("rotation"),
        took_ms=float(slot["took_ms"]),
    )


def _read_failure(slot: Mapping[str, Any]) -> PictureFailure | None:
    error = slot.get("error")
    return None if error is None else PictureFailure(message=error["message"], code=error["code"])


def _read_size(slot: Mapping[str, Any]) -> tuple[int, int] | None:
    image_hw = slot.get("image_hw")
    return None if image_hw is None else (int(image_hw[0]), int(image_hw[1]))


def read_plates(answer: Any) -> list[PlatesPicture]:
    """Read `/plates`."""
    return [
        PlatesPicture(
            plates=tuple(
                Plate(
                    box=np.asarray(plate["box"], np.float32),
                    score=float(plate["score"]),
                    text=plate["text"],
                    confidence=float(plate["confidence"]),
                    confidences=tuple(float(each["confidence"]) for each in plate["characters"]),
                )
                for plate in slot["plates"]
            ),
            failure=_read_failure(slot),
            image_hw=_read_size(slot),
            took_ms=float(slot["took_ms"]),
        )
        for slot in answer["pictures"]
    ]


def read_comparison(answer: Any) -> Comparison:
    """Read `/compare` of two pictures."""
    first, second = read_pictures(answer)
    return Comparison(
        similarity=answer["similarity"],
        is_match=answer["is_match"],
        threshold=float(answer["threshold"]),
        pictures=(first, second),
    )


def read_matrix(answer: Any) -> ComparisonMatrix:
    """Read `/compare` of many pictures with many."""
    shape = (len(answer["pictures"]), len(answer["others"]))
    return ComparisonMatrix(
        # None becomes NaN.
        similarities=np.array(answer["similarities"], np.float32).reshape(shape),
        matches=np.array(answer["matches"], np.bool_).reshape(shape),
        threshold=float(answer["threshold"]),
        pictures=tuple(read_pictures(answer)),
        others=tuple(map(_read_picture, answer["others"])),
    )


def read_info(answer: Any) -> Info:
    """Read `/info`."""
    models = answer["models"]
    return Info(
        version=answer["version"],
        detector=models["det_name"],
        recognizer=models["rec_name"],
        # A service older than this client does not tell them.
        match_threshold=models.get("match_threshold"),
        false_match_rate=models.get("false_match_rate"),
        raw=answer,
        attributes=tuple(
            attribute["name"] for attribute in models.get("attributes", ()) if attribute["option"] == "attributes"
        ),
    )


def read_models(answer: Any) -> list[Model]:
    """Read `/models`."""
    return [
        Model(
            name=model["name"],
            task=model["task"],
            state=model["state"],
            is_active=model["is_active"],
            license=model["license"],
            embedding_length=model["embedding_length"],
            backend=model["backend"],
            match_threshold=model.get("match_threshold"),
            false_match_rate=model.get("false_match_rate"),
        )
        for model in answer["models"]
    ]


def read_readiness(answer: Any) -> Readiness:
    """Read `/health/ready`, ready or not."""
    states = {name: model["state"] for name, model in answer["models"].items()}
    return Readiness(is_ready=answer["status"] == "ready", reason=answer.get("reason"), states=states)


def read_vector(value: Any) -> NDArray[np.float32] | None:
    """Return an embedding: base64 of little-endian float32, or numbers; read-only from base64."""
    if value is None:
        return None
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), "<f4")
    return np.asarray(value, np.float32)


def _points(value: Any) -> NDArray[np.float32] | None:
    return None if value is None else np.asarray(value, np.float32)
