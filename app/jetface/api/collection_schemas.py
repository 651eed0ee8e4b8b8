"""What requests to the gallery may say, and what it answers; see `jetface.api.requests` for the rules."""

from __future__ import annotations

from typing import Annotated, Any

import pybase64
from annotated_types import Ge, Le, MaxLen
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from jetface.api.requests import (
    AnswerFormat,
    Count,
    Images,
    PicturesBody,
    Score,
    TurnsLookedAt,
    comma_list,
)
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


Id = Annotated[str, MaxLen(_MAX_TEXT_CHARS), AfterValidator(lambda value: check_id("id", value))]
Name = Annotated[str, MaxLen(_MAX_TEXT_CHARS), AfterValidator(lambda value: check_name("name", value))]
Vector = Annotated[list[float], _FIRST_FAULT_ENDS, MaxLen(8192), BeforeValidator(_vector)]
Vectors = Annotated[
    Annotated[list[Vector], _FIRST_FAULT_ENDS, MaxLen(MAX_VECTORS)] | None,
    Field(description="Embeddings in place of pictures: numbers, or base64 of little-endian float32."),
]
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


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class PinnedModel(_Answer):
    """The recognizer that a collection is pinned to."""

    name: str
    sha256: str
    embedding_length: int


class CollectionAnswer(_Answer):
    """A collection."""

    name: str
    model: PinnedModel
    metadata: dict[str, Any]
    created: float = Field(description="Seconds since 1970.")
    persons: int
    faces: int


class CollectionsAnswer(_Answer):
    """All collections."""

    collections: list[CollectionAnswer]


class PersonAnswer(_Answer):
    """A person."""

    id: str
    name: str
    metadata: dict[str, Any]
    created: float
    faces: int


class PersonsAnswer(_Answer):
    """A page of persons."""

    persons: list[PersonAnswer]
    next: str | None = Field(description="What `after` is for the next page; null at the end.")


class FaceAnswer(_Answer):
    """A face that is stored."""

    id: str
    person: str
    quality: float | None
    created: float
    has_crop: bool


class FacesAnswer(_Answer):
    """A page of faces."""

    faces: list[FaceAnswer]
    next: str | None


class NearestAnswer(_Answer):
    """The face most like a new one that was there before."""

    face: str
    person: str
    similarity: float
    is_duplicate: bool


class EnrolledAnswer(_Answer):
    """What came of one picture or vector."""

    status: str = Field(description="`ok`, `skipped` (a duplicate) or `failed`.")
    face: FaceAnswer | None = None
    box: list[float] | None = None
    score: float | None = None
    nearest: NearestAnswer | None = None
    error: dict[str, Any] | None = None


class EnrolAnswer(_Answer):
    """Answer of enrolling."""

    took_ms: float
    person: str
    pictures: list[EnrolledAnswer]


class MatchedPerson(_Answer):
    """Who it may be."""

    id: str
    name: str
    metadata: dict[str, Any]


class MatchAnswer(_Answer):
    """A person who is alike."""

    person: MatchedPerson
    similarity: float = Field(description="Cosine, of the most alike of the person's faces.")
    face: str


class SearchedFace(_Answer):
    """A face and who it may be."""

    box: list[float] | None = None
    score: float | None = None
    landmarks: list[list[float]] | None = None
    visible: float | None = None
    matches: list[MatchAnswer]
    margin: float | None = Field(description="How much more alike the first is than the next person; null: none.")


class SearchedPicture(_Answer):
    """One picture of a search."""

    status: str
    took_ms: float
    image_hw: tuple[int, int] | None
    faces: list[SearchedFace]
    error: dict[str, Any] | None = None


class SearchAnswer(_Answer):
    """Answer of a search: `pictures`, or `vectors` where those were sent."""

    took_ms: float
    threshold: float
    pictures: list[SearchedPicture] | None = None
    vectors: list[SearchedFace] | None = None


class IdentifiedFace(_Answer):
    """A face and who it is."""

    box: list[float] | None = None
    score: float | None = None
    landmarks: list[list[float]] | None = None
    visible: float | None = None
    person: MatchedPerson | None
    similarity: float | None
    margin: float | None


class IdentifiedPicture(_Answer):
    """One picture whose faces were identified."""

    status: str
    took_ms: float
    image_hw: tuple[int, int] | None
    faces: list[IdentifiedFace]
    error: dict[str, Any] | None = None


class IdentifyAnswer(_Answer):
    """Answer of identifying."""

    took_ms: float
    threshold: float
    pictures: list[IdentifiedPicture] | None = None
    vectors: list[IdentifiedFace] | None = None


class DeletedAnswer(_Answer):
    """What was deleted."""

    deleted: list[str]
