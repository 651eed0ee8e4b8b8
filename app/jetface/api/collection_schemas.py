"""What requests to the gallery may say, and what it answers; see `jetface.api.requests` for the rules."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pybase64
from annotated_types import Ge, Le, MaxLen
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from typing_extensions import NotRequired, TypedDict

from jetface.api.answers import (
    Box,
    ErrorDetail,
    LandmarksFrom,
    Millis,
    PictureAnswer,
    Points,
    Rotation,
    SlotError,
    Visible,
)
from jetface.api.requests import (
    AnswerFormat,
    Count,
    Images,
    PicturesBody,
    Score,
    TurnsLookedAt,
    comma_list,
)
from jetface.domain import Float
from jetface.gallery.records import check_id, check_name

MAX_VECTORS = 1024
"""Most vectors of a request, as base64; as numbers the 20,000 values of a body are 39 of 512."""

_FIRST_FAULT_ENDS: Any = Field(fail_fast=True)
_MAX_TEXT_CHARS = 2**12


def _vector(value: object) -> object:
    """Take base64 of little-endian float32 for the numbers that it holds."""
    if not isinstance(value, str):
        return value
    try:
        data = pybase64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("not base64") from None
    if len(data) % 4:
        raise ValueError("not base64 of float32")
    return memoryview(data).cast("f").tolist()


Id = Annotated[str, MaxLen(_MAX_TEXT_CHARS), AfterValidator(lambda value, info: check_id(info.field_name, value))]
Name = Annotated[str, MaxLen(_MAX_TEXT_CHARS), AfterValidator(lambda value, info: check_name(info.field_name, value))]
Vector = Annotated[
    list[float],
    _FIRST_FAULT_ENDS,
    MaxLen(8192),
    BeforeValidator(_vector),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}]}),
]
Vectors = Annotated[
    Annotated[list[Vector], _FIRST_FAULT_ENDS, MaxLen(MAX_VECTORS)] | None,
    Field(description="Embeddings in place of pictures: numbers, or base64 of little-endian float32."),
]
Created = Annotated[float, Field(description="Seconds since 1970.")]
NextPage = Annotated[str | None, Field(description="What `after` is for the next page; null at the end.")]
Similarity = Annotated[float, Ge(-1), Le(1), Field(allow_inf_nan=False)]
Metadata = Annotated[dict[str, Any], Field(description="Any JSON object, up to 16 KiB.")]


class CollectionBody(AnswerFormat):
    """Body of `POST /v1/collections`."""

    name: Id
    metadata: Metadata = Field(default_factory=dict)


class PersonBody(AnswerFormat):
    """Body of `POST .../persons`."""

    id: Annotated[Id | None, Field(description="Yours; made up where it is not given.")] = None
    name: Annotated[Name | None, Field(description="Where it is not given: the id.")] = None
    metadata: Metadata = Field(default_factory=dict)


class PersonChanges(AnswerFormat):
    """Body of `PATCH .../persons/{person}`: what is given is changed."""

    name: Name | None = None
    metadata: Metadata | None = None


class EnrolFields(AnswerFormat):
    """Options of enrolling."""

    name: Annotated[Name | None, Field(description="Of a person who is new; where it is not given: the id.")] = None
    ids: Annotated[
        Annotated[list[Id], _FIRST_FAULT_ENDS, BeforeValidator(comma_list)] | None,
        Field(description="Your ids of the faces, one a picture: what is sent again under its id is stored once."),
    ] = None
    largest: bool = Field(default=False, description="Of several faces take the largest; else the picture is refused.")
    min_quality: Score = Field(default=0.0, description="Refuse faces whose quality is less.")
    skip_duplicates: bool = Field(default=False, description="Do not store a face that is there already.")
    detection_threshold: Annotated[Score | None, Field(description="Least detector score.")] = None
    rotations: TurnsLookedAt = "none"


class EnrolBody(PicturesBody, EnrolFields):
    """Body of `POST .../persons/{person}/faces`: `images`, or `vectors`."""

    images: Images = Field(default_factory=Images)
    vectors: Vectors = None


class IdentifyFields(AnswerFormat):
    """Options of `.../identify`."""

    threshold: Annotated[
        Similarity | None,
        Field(description="Least cosine similarity of one person; null: what suits the recognizer."),
    ] = None
    detection_threshold: Annotated[Score | None, Field(description="Least detector score.")] = None
    limit_faces: Count = Field(default=0, description="Keep the N largest faces of a picture; 0: all, by score.")
    min_face_size: Count = Field(default=0, description="Drop faces whose box is narrower, source pixels.")
    min_quality: Score = Field(default=0.0, description="Drop faces whose quality is less.")
    rotations: TurnsLookedAt = "none"


class IdentifyBody(PicturesBody, IdentifyFields):
    """Body of `.../identify`: `images`, or `vectors`."""

    images: Images = Field(default_factory=Images)
    vectors: Vectors = None


class SearchFields(IdentifyFields):
    """Options of `.../search`."""

    top_k: Annotated[int, Ge(1), Le(100), Field(description="Most persons a face.")] = 5


class SearchBody(PicturesBody, SearchFields):
    """Body of `.../search`: `images`, or `vectors`."""

    images: Images = Field(default_factory=Images)
    vectors: Vectors = None


class PageFields(AnswerFormat):
    """Query of a list."""

    limit: Annotated[int, Ge(1), Le(1000), Field(description="Most entries.")] = 100
    after: Annotated[str, MaxLen(512), Field(description="`next` of the page before.")] = ""


class DeleteFacesBody(AnswerFormat):
    """Body of `POST .../faces/delete`."""

    ids: Annotated[list[Id], _FIRST_FAULT_ENDS, MaxLen(1000)]


class PinnedModel(TypedDict):
    """The recognizer that a collection is pinned to."""

    name: str
    sha256: str
    embedding_length: int


class CollectionAnswer(TypedDict):
    """A collection."""

    name: str
    model: PinnedModel
    metadata: dict[str, Any]
    created: Created
    persons: int
    faces: int


class CollectionsAnswer(TypedDict):
    """All collections."""

    collections: list[CollectionAnswer]


class PersonAnswer(TypedDict):
    """A person."""

    id: str
    name: str
    metadata: dict[str, Any]
    created: Created
    faces: int


class PersonsAnswer(TypedDict):
    """A page of persons."""

    persons: list[PersonAnswer]
    next: NextPage


class FaceAnswer(TypedDict):
    """A face that is stored."""

    id: str
    person: str
    quality: Float | None
    created: Created
    has_crop: bool


class FacesAnswer(TypedDict):
    """A page of faces."""

    faces: list[FaceAnswer]
    next: NextPage


class NearestAnswer(TypedDict):
    """The face most like a new one that was there before."""

    face: str
    person: str
    similarity: Float
    is_duplicate: bool


class EnrolledAnswer(TypedDict):
    """What came of one picture or vector; a vector has no size and no box."""

    status: Annotated[Literal["ok", "skipped", "failed"], Field(description="`skipped`: a duplicate.")]
    took_ms: NotRequired[Millis]
    image_hw: NotRequired[tuple[int, int] | None]
    face: FaceAnswer | None
    box: NotRequired[Box]
    score: NotRequired[Float]
    nearest: NearestAnswer | None
    error: NotRequired[ErrorDetail]


class EnrolAnswer(TypedDict):
    """Answer of enrolling."""

    took_ms: Millis
    person: str
    pictures: list[EnrolledAnswer]


class MatchedPerson(TypedDict):
    """Who it may be."""

    id: str
    name: str
    metadata: dict[str, Any]


class MatchAnswer(TypedDict):
    """A person who is alike."""

    person: MatchedPerson
    similarity: Annotated[Float, Field(description="Cosine, of the most alike of the person's faces.")]
    face: str


class FoundFace(TypedDict):
    """Where a face is, source pixels, and how sure its person is; a vector is nowhere."""

    box: NotRequired[Box]
    score: NotRequired[Float]
    landmarks: NotRequired[Points]
    landmarks_from: NotRequired[LandmarksFrom]
    visible: NotRequired[Visible]
    margin: Annotated[Float | None, Field(description="How much more alike the first is than the next; null: none.")]


class SearchedFace(FoundFace):
    """A face and who it may be."""

    matches: list[MatchAnswer]


class FoundPicture(PictureAnswer):
    """What came of one picture, but for its faces."""

    rotation: NotRequired[Rotation]
    error: NotRequired[SlotError]


class SearchedPicture(FoundPicture):
    """One picture of a search."""

    faces: list[SearchedFace]


class SearchAnswer(TypedDict):
    """Answer of a search: `pictures`, or `vectors` where those were sent."""

    took_ms: Millis
    threshold: Float
    pictures: NotRequired[list[SearchedPicture]]
    vectors: NotRequired[list[SearchedFace]]


class IdentifiedFace(FoundFace):
    """A face and who it is."""

    person: MatchedPerson | None
    similarity: Float | None
    face: Annotated[NotRequired[str], Field(description="The most alike of the person's; not where there is none.")]


class IdentifiedPicture(FoundPicture):
    """One picture whose faces were identified."""

    faces: list[IdentifiedFace]


class IdentifyAnswer(TypedDict):
    """Answer of identifying."""

    took_ms: Millis
    threshold: Float
    pictures: NotRequired[list[IdentifiedPicture]]
    vectors: NotRequired[list[IdentifiedFace]]


class ImportAnswer(TypedDict):
    """What an import had, and what of it is new."""

    took_ms: Millis
    persons: int
    persons_added: int
    faces: int
    faces_added: int


class DeletedAnswer(TypedDict):
    """What was deleted."""

    deleted: list[str]
