"""What requests may say: fields, types, defaults. Names are the wire's; unknown fields are ignored.

Each route has a model of its options, which a form or a query can fill, and a model of its body for JSON and msgpack,
which adds the pictures. A number or flag that is null counts as not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from annotated_types import Ge, Le, MaxLen
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from jetface.api.structure import Cut, parse_json
from jetface.domain import Rotations
from jetface.errors import RequestError

Model = TypeVar("Model", bound=BaseModel)

_INT32 = 2**31 - 1

Count = Annotated[int, Ge(-_INT32), Le(_INT32)]
Score = Annotated[float, Ge(0), Le(1), Field(allow_inf_nan=False)]
Coordinate = float
"""Any number: one that is in no picture fails the slot of the picture it was given for, not the request."""
EmbeddingFormat = Literal["float", "base64"]
TurnsLookedAt = Annotated[
    Rotations,
    Field(
        description="auto: a picture without a sure face is looked at in its other three quarter turns, too; "
        "`rotation` says which was taken, coordinates stay the picture's own."
    ),
]
Url = Annotated[str, MaxLen(8192)]
HeaderName = Annotated[str, Field(max_length=128, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
_MAX_HEADERS = 64
HeaderValue = Annotated[str, Field(max_length=8192, pattern=r"^[\t -~]*$")]


_FIRST_FAULT_ENDS: Any = Field(fail_fast=True)
"""Ends the check of a list; else an error would be built for each of its items."""

_MAX_NAMES = 2**11
"""Most names in a list of them. There are not twenty, but each may come more than once."""


def _comma_list(value: object) -> object:
    """Forms and queries say `a,b`; JSON may too."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",", _MAX_NAMES) if part.strip()]
    if isinstance(value, list) and len(value) > _MAX_NAMES:
        raise ValueError("too many names")
    return value


def _json_text(value: object) -> object:
    """Forms and queries carry nested lists as JSON."""
    if isinstance(value, str):
        try:
            return parse_json(value.encode()).value
        except (RequestError, UnicodeEncodeError):
            raise ValueError("not JSON, or too much of it") from None
    return value


def _few_headers(value: object) -> object:
    """Count before any is looked at."""
    if isinstance(value, Mapping) and len(value) > _MAX_HEADERS:
        raise ValueError(f"more than {_MAX_HEADERS} headers")
    return value


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {name: item for name, item in value.items() if item is not None}
        return value


class Images(_Wire):
    """The pictures of a JSON or msgpack body."""

    data: Annotated[
        Annotated[list[str | bytes | SkipJsonSchema[InstanceOf[Cut]]], _FIRST_FAULT_ENDS] | None,
        Field(description="Base64 strings; in msgpack also bytes."),
    ] = None
    urls: Annotated[
        Annotated[list[Url], _FIRST_FAULT_ENDS] | None,
        Field(description="http(s) URLs, or paths below ROOT_IMAGES_DIR; `data` is ignored then."),
    ] = None


class PicturesBody(_Wire):
    """What a JSON or msgpack body has beyond the options."""

    images: Images
    img_req_headers: Annotated[
        dict[HeaderName, HeaderValue],
        MaxLen(_MAX_HEADERS),
        BeforeValidator(_few_headers),
        Field(description="Headers for downloads of `images.urls`."),
    ] = Field(default_factory=dict)


class AnswerFormat(_Wire):
    """Options every picture route takes."""

    msgpack: bool = Field(default=False, description="Answer as msgpack.")


class FaceSelection(AnswerFormat):
    """Which faces are wanted."""

    threshold: Annotated[Score | None, Field(description="Least detector score; null: the service's default.")] = None
    limit_faces: Count = Field(default=0, description="Keep the N largest by area, in that order; 0: all, by score.")
    min_face_size: Count = Field(default=0, description="Drop faces whose box is narrower, source pixels.")
    rotations: TurnsLookedAt = "none"


ExtractField = Literal[
    "bbox", "prob", "num_det", "scale", "size", "norm", "vec", "gender", "age", "mask", "mask_probs", "landmarks",
    "facedata", "live", "is_live", "quality", "landmarks_from", "visible",
]  # fmt: skip


class ExtractFields(FaceSelection):
    """Options of `/extract`. A flag that is null or not given has the service's default."""

    embed_only: bool = Field(default=False, description="Pictures are aligned crops; nothing is detected.")
    return_face_data: bool | None = Field(default=None, description="Add `facedata`, the aligned crop as base64 JPEG.")
    return_landmarks: bool | None = Field(
        default=None, description="Add `landmarks`, 5 x [x, y], and `landmarks_from`."
    )
    landmarks_precise: bool = Field(
        default=False, description="Add `landmarks` as floats, as `/recognize` wants them, instead of whole numbers."
    )
    extract_embedding: bool | None = Field(default=None, description="Compute `vec` and `norm`.")
    extract_ga: bool | None = Field(default=None, description="Gender and age; null when no model is configured.")
    detect_masks: bool | None = Field(default=None, description="Masks; null when no model is configured.")
    detect_liveness: bool = Field(
        default=False, description="Add `live` and `is_live`; null when no model is configured. Not with `embed_only`."
    )
    return_quality: bool = Field(default=False, description="Add `quality` and `visible`. Not with `embed_only`.")
    min_quality: Score = Field(
        default=0.0,
        description="Drop faces whose quality is less, before anything else is done. Not with `embed_only`.",
    )
    verbose_timings: bool = Field(default=False, description="Add two timings to `took`.")
    embedding_format: EmbeddingFormat = Field(
        default="float", description="`vec` as numbers, or as base64 of little-endian float32."
    )
    fields: Annotated[
        Annotated[frozenset[ExtractField], _FIRST_FAULT_ENDS, BeforeValidator(_comma_list)] | None,
        Field(description="Compute and return these keys of a face only; overrides the flags above."),
    ] = None


class ExtractBody(PicturesBody, ExtractFields):
    """Body of `/extract`."""


class DrawFields(FaceSelection):
    """Options of `/draw_detections`."""

    draw_landmarks: bool = Field(default=True, description="Draw the five points.")
    draw_scores: bool = Field(default=True, description="Write the score above each box.")
    draw_sizes: bool = Field(default=True, description="Write the box's width beside the score.")


class DrawBody(PicturesBody, DrawFields):
    """Body of `/draw_detections`. The first picture is drawn."""


DetectField = Literal["box", "score", "landmarks", "landmarks_from", "visible"]


class DetectFields(FaceSelection):
    """Options of `/detect`."""

    fields: Annotated[
        Annotated[frozenset[DetectField], _FIRST_FAULT_ENDS, BeforeValidator(_comma_list)] | None,
        Field(description="Return these keys of a face only."),
    ] = None


class DetectBody(PicturesBody, DetectFields):
    """Body of `/detect`."""


def _is_five_points(value: list[list[Coordinate]]) -> list[list[Coordinate]]:
    if len(value) != 5 or any(len(point) != 2 for point in value):
        raise ValueError("a face has five points [x, y]")
    return value


def _is_box(value: list[Coordinate]) -> list[Coordinate]:
    if len(value) != 4:
        raise ValueError("a box is [x1, y1, x2, y2]")
    return value


Coordinates = Annotated[list[Coordinate], _FIRST_FAULT_ENDS]
FacePoints = Annotated[list[Coordinates], _FIRST_FAULT_ENDS, AfterValidator(_is_five_points)]
FaceBox = Annotated[Coordinates, AfterValidator(_is_box)]
RecognizeField = Literal["embedding", "norm", "box", "landmarks_from", "visible"]


class RecognizeFields(AnswerFormat):
    """Options of `/recognize`. Without `landmarks` and `boxes` every picture is an aligned crop."""

    landmarks: Annotated[
        Annotated[list[Annotated[list[FacePoints], _FIRST_FAULT_ENDS]], _FIRST_FAULT_ENDS, BeforeValidator(_json_text)]
        | None,
        Field(description="Per picture, per face: five points [x, y], source pixels."),
    ] = None
    boxes: Annotated[
        Annotated[list[Annotated[list[FaceBox], _FIRST_FAULT_ENDS]], _FIRST_FAULT_ENDS, BeforeValidator(_json_text)]
        | None,
        Field(description="Per picture, per face: [x1, y1, x2, y2], source pixels; not together with `landmarks`."),
    ] = None
    rotations: TurnsLookedAt = "none"
    embedding_format: EmbeddingFormat = "float"
    fields: Annotated[
        Annotated[frozenset[RecognizeField], _FIRST_FAULT_ENDS, BeforeValidator(_comma_list)] | None,
        Field(description="Return these keys of a face only."),
    ] = None

    @model_validator(mode="after")
    def _one_kind(self) -> RecognizeFields:
        if self.landmarks is not None and self.boxes is not None:
            raise ValueError("landmarks and boxes exclude each other")
        return self


class RecognizeBody(PicturesBody, RecognizeFields):
    """Body of `/recognize`."""


class CompareFields(AnswerFormat):
    """Options of `/compare`."""

    threshold: Annotated[
        Annotated[float, Ge(-1), Le(1), Field(allow_inf_nan=False)] | None,
        Field(
            description="Least cosine similarity of one person; null: what suits the recognizer, as `/info` tells it."
        ),
    ] = None
    detection_threshold: Annotated[Score | None, Field(description="Least detector score.")] = None
    rotations: TurnsLookedAt = "none"


class CompareBody(PicturesBody, CompareFields):
    """Body of `/compare`: two pictures, or N in `images` against M in `others`."""

    others: Images | None = Field(default=None, description="Compare every picture of `images` with every one here.")


def validate(model: type[Model], value: Mapping[str, Any]) -> Model:
    """Check a request.

    Raises:
        RequestError: Names the field and what is wrong with it; the input is not repeated.
    """
    try:
        return model.model_validate(value)
    except ValidationError as cause:
        found = cause.errors(include_url=False, include_input=False, include_context=False)
        faults = [{"field": _name(error["loc"]), "problem": error["msg"]} for error in found[:8]]
        raise RequestError(f"{faults[0]['field']}: {faults[0]['problem']}.", fields=faults) from None


def _name(location: tuple[int | str, ...]) -> str:
    """Join a location, leaving out what is not a field: a branch of a union, or a key the client made up."""
    parts = [str(part) for part in location if isinstance(part, int) or part.isidentifier()]
    return ".".join(part for part in parts if part not in {"str", "bytes"})[:80] or "body"


def to_array(value: list[Any], shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return nested lists that were checked as float32 of `shape`; an empty list gives no row, 1e300 infinity."""
    with np.errstate(over="ignore"):
        return np.asarray(value, np.float32).reshape(shape)
