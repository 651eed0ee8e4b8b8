"""Calls: which request asks what, and what its answer means. One function a call, shared by both clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import ormsgpack
from numpy.typing import ArrayLike

from jetface_client import answers
from jetface_client.options import ExtractOptions, Rotations
from jetface_client.results import Comparison, ComparisonMatrix, Info, Model, Picture, PlatesPicture, Readiness
from jetface_client.sources import PictureSource, picture_fields

Result_co = TypeVar("Result_co", covariant=True)

_OK = frozenset({200})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[Result_co]):
    """One call: the request but for its address and headers, and how its answer is read."""

    path: str
    parse: Callable[[Any], Result_co]
    body: bytes | None = None
    content_type: str = "application/msgpack"
    """Of the body."""
    method: str | None = None
    """None: GET, or POST with a body."""
    statuses: frozenset[int] = _OK
    """Of answers that `parse` reads."""
    is_repeatable: bool = True
    """False where a refusal is the answer."""


def extract_many_call(pictures: Sequence[PictureSource], options: ExtractOptions) -> Call[list[Picture]]:
    """Ask for the faces of each picture."""
    return _post("/extract", answers.read_extracted, images=picture_fields(pictures), **options.fields())


def extract_call(picture: PictureSource, options: ExtractOptions) -> Call[Picture]:
    """Ask for the faces of one picture."""
    return _single(extract_many_call([picture], options))


def detect_many_call(
    pictures: Sequence[PictureSource],
    *,
    threshold: float | None,
    limit_faces: int,
    min_face_size: int,
    rotations: Rotations,
) -> Call[list[Picture]]:
    """Ask where the faces of each picture are."""
    return _post(
        "/detect",
        answers.read_pictures,
        images=picture_fields(pictures),
        threshold=threshold,
        limit_faces=limit_faces,
        min_face_size=min_face_size,
        rotations=rotations,
    )


def detect_call(
    picture: PictureSource, *, threshold: float | None, limit_faces: int, min_face_size: int, rotations: Rotations
) -> Call[Picture]:
    """Ask where the faces of one picture are."""
    return _single(
        detect_many_call(
            [picture], threshold=threshold, limit_faces=limit_faces, min_face_size=min_face_size, rotations=rotations
        )
    )


def recognize_many_call(
    pictures: Sequence[PictureSource],
    *,
    landmarks: Sequence[ArrayLike] | None,
    boxes: Sequence[ArrayLike] | None,
    rotations: Rotations,
) -> Call[list[Picture]]:
    """Ask for embeddings of crops, or of faces whose place is known.

    Raises:
        ValueError: Landmarks are not (N, 5, 2), or boxes not (N, 4).
    """
    return _post(
        "/recognize",
        answers.read_pictures,
        images=picture_fields(pictures),
        landmarks=None if landmarks is None else [_rows(faces, (5, 2)) for faces in landmarks],
        boxes=None if boxes is None else [_rows(faces, (4,)) for faces in boxes],
        rotations=rotations,
        embedding_format="base64",
    )


def recognize_call(
    picture: PictureSource, *, landmarks: ArrayLike | None, boxes: ArrayLike | None, rotations: Rotations
) -> Call[Picture]:
    """Ask for embeddings of one picture."""
    return _single(
        recognize_many_call(
            [picture],
            landmarks=None if landmarks is None else [landmarks],
            boxes=None if boxes is None else [boxes],
            rotations=rotations,
        )
    )


def plates_many_call(
    pictures: Sequence[PictureSource], *, threshold: float | None, limit: int, min_width: int
) -> Call[list[PlatesPicture]]:
    """Ask for the licence plates of each picture."""
    return _post(
        "/plates",
        answers.read_plates,
        images=picture_fields(pictures),
        threshold=threshold,
        limit=limit,
        min_width=min_width,
    )


def plates_call(picture: PictureSource, *, threshold: float | None, limit: int, min_width: int) -> Call[PlatesPicture]:
    """Ask for the licence plates of one picture."""
    return _single(plates_many_call([picture], threshold=threshold, limit=limit, min_width=min_width))


def compare_call(
    first: PictureSource,
    second: PictureSource,
    *,
    threshold: float | None,
    detection_threshold: float | None,
    rotations: Rotations,
) -> Call[Comparison]:
    """Ask whether two pictures show one person."""
    return _post(
        "/compare",
        answers.read_comparison,
        images=picture_fields([first, second]),
        threshold=threshold,
        detection_threshold=detection_threshold,
        rotations=rotations,
    )


def compare_many_call(
    pictures: Sequence[PictureSource],
    others: Sequence[PictureSource],
    *,
    threshold: float | None,
    detection_threshold: float | None,
    rotations: Rotations,
) -> Call[ComparisonMatrix]:
    """Ask for the similarity of each of `pictures` with each of `others`."""
    return _post(
        "/compare",
        answers.read_matrix,
        images=picture_fields(pictures),
        others=picture_fields(others),
        threshold=threshold,
        detection_threshold=detection_threshold,
        rotations=rotations,
    )


def info_call() -> Call[Info]:
    """Ask what runs there."""
    return Call(path="/info", parse=answers.read_info)


def models_call() -> Call[list[Model]]:
    """Ask for the registry."""
    return Call(path="/models", parse=answers.read_models)


def ready_call() -> Call[Readiness]:
    """Ask whether requests can be served: once, for the answer may be no."""
    return Call(path="/health/ready", parse=answers.read_readiness, statuses=frozenset({200, 503}), is_repeatable=False)


def _post(path: str, parse: Callable[[Any], Result_co], **fields: Any) -> Call[Result_co]:
    return Call(path=path, parse=parse, body=ormsgpack.packb(_given(fields)))


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _single(call: Call[list[answers.AnyPicture]]) -> Call[answers.AnyPicture]:
    """Make a call for one picture of a call for several: its failure is raised."""
    return Call(path=call.path, body=call.body, parse=lambda answer: answers.only(call.parse(answer)))


def _rows(faces: ArrayLike, shape: tuple[int, ...]) -> Any:
    rows = np.asarray(faces, np.float32)
    # No other shape that happens to hold as many numbers: five x and then five y are no landmarks.
    if rows.size and rows.shape[-len(shape) :] != shape:
        raise ValueError(f"an array of shape {('N', *shape)} is wanted, not {rows.shape}")
    return rows.reshape(-1, *shape).tolist()
