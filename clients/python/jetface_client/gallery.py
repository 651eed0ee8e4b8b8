"""People and their faces: `client.collections["people"]`, for threads and for asyncio.

What is asked and how an answer is read is said once, in functions that return a `Call`; the classes send them.
"""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import numpy as np
import ormsgpack
from numpy.typing import ArrayLike, NDArray

from jetface_client.calls import Call
from jetface_client.errors import PictureError
from jetface_client.options import Rotations
from jetface_client.results import PictureFailure
from jetface_client.sources import PictureSource, picture_fields

Result = TypeVar("Result")
Item = TypeVar("Item")

_PATH = "/v1/collections"
_MADE = frozenset({200, 201})
_PAGE = 500
_LINES = "application/x-ndjson"
_PART_LINES = 1000
_PART_BYTES = 8 * 2**20
"""Most of an export that is sent at once; a line may be longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionInfo:
    """A collection: the recognizer that it is pinned to, and what it holds."""

    name: str
    model: str
    model_sha256: str
    embedding_length: int
    metadata: Mapping[str, Any]
    num_persons: int
    num_faces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody of a collection."""

    id: str
    name: str
    metadata: Mapping[str, Any]
    num_faces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFace:
    """An enrolled face."""

    id: str
    person_id: str
    quality: float | None
    has_crop: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """The face most like a new one that was there before."""

    face_id: str
    person_id: str
    similarity: float
    is_duplicate: bool
    """Whether both are taken to be of one picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What came of one picture that was to be enrolled."""

    face: StoredFace | None
    """None where it was refused, or skipped as a duplicate."""
    failure: PictureFailure | None
    nearest: Nearest | None
    """None where nobody like it was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an export had, and what of it was new."""

    num_persons: int = 0
    num_persons_added: int = 0
    num_faces: int = 0
    num_faces_added: int = 0

    def __add__(self, other: Imported) -> Imported:
        """Return the sum of two parts."""
        return Imported(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A person, and how alike the most alike of its faces is."""

    person_id: str
    name: str
    metadata: Mapping[str, Any]
    face_id: str
    similarity: float
    """Cosine, [-1, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundFace:
    """A face, and who it may be."""

    matches: tuple[Match, ...]
    """Persons that reach the threshold, most alike first."""
    margin: float | None
    """How much more alike the first is than the next person; None where there is no first or no next."""
    box: NDArray[np.float32] | None = None
    """(4,) float32 `x1, y1, x2, y2`, source pixels; None of a vector."""
    score: float | None = None

    @property
    def person(self) -> Match | None:
        """The person most alike; None where nobody reaches the threshold."""
        return self.matches[0] if self.matches else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchedPicture:
    """What came of one picture of a search."""

    faces: tuple[FoundFace, ...] = ()
    failure: PictureFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What is looked for, and what counts as found."""

    top_k: int = 5
    """Most persons a face, 1 to 100."""
    threshold: float | None = None
    """Least cosine similarity of one person; None: what suits the recognizer."""
    detection_threshold: float | None = None
    limit_faces: int = 0
    """Only the N largest faces; 0: all."""
    min_face_size: int = 0
    min_quality: float = 0.0
    rotations: Rotations = "none"

    def fields(self) -> dict[str, Any]:
        """Return them as the wire has them."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolOptions:
    """How pictures are enrolled."""

    largest: bool = False
    """Of several faces take the largest; else the picture is refused."""
    min_quality: float = 0.0
    skip_duplicates: bool = False
    detection_threshold: float | None = None
    rotations: Rotations = "none"

    def fields(self) -> dict[str, Any]:
        """Return them as the wire has them."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class _Page(Generic[Item]):
    items: list[Item]
    next: str | None


class CollectionCalls:
    """The calls about one collection."""

    def __init__(self, name: str) -> None:
        self.path = f"{_PATH}/{quote(name, safe='')}"
        self.export_path = f"{self.path}/export"

    def info(self) -> Call[CollectionInfo]:
        """Return the call of `Collection.info`."""
        return Call(path=self.path, parse=_collection)

    def delete(self) -> Call[CollectionInfo]:
        """Return the call of `Collection.delete`."""
        # Not tried again: a second one would find nothing and say so.
        return Call(path=self.path, parse=_collection, method="DELETE", is_repeatable=False)

    def add_person(self, person_id: str | None, name: str | None, metadata: Mapping[str, Any]) -> Call[Person]:
        """Return the call of `Collection.add_person`."""
        # The id is made up here, so that a second attempt means the same person.
        body = _body(id=person_id or str(uuid.uuid4()), name=name, metadata=dict(metadata))
        return Call(path=f"{self.path}/persons", parse=_person, body=body, statuses=_MADE)

    def person(self, person_id: str) -> Call[Person]:
        """Return the call of `Collection.person`."""
        return Call(path=self._person(person_id), parse=_person)

    def change_person(self, person_id: str, name: str | None, metadata: Mapping[str, Any] | None) -> Call[Person]:
        """Return the call of `Collection.change_person`."""
        body = _body(name=name, metadata=None if metadata is None else dict(metadata))
        return Call(path=self._person(person_id), parse=_person, body=body, method="PATCH")

    def delete_person(self, person_id: str) -> Call[Person]:
        """Return the call of `Collection.delete_person`."""
        return Call(path=self._person(person_id), parse=_person, method="DELETE", is_repeatable=False)

    def persons(self, after: str) -> Call[_Page[Person]]:
        """Return the call of `Collection.persons`."""
        query = urlencode({"limit": _PAGE, "after": after})
        return Call(path=f"{self.path}/persons?{query}", parse=lambda answer: _page(answer, "persons", _person))

    def faces(self, person_id: str, after: str) -> Call[_Page[StoredFace]]:
        """Return the call of `Collection.faces`."""
        query = urlencode({"limit": _PAGE, "after": after})
        path = f"{self._person(person_id)}/faces?{query}"
        return Call(path=path, parse=lambda answer: _page(answer, "faces", _face))

    def delete_faces(self, face_ids: Sequence[str]) -> Call[list[str]]:
        """Return the call of `Collection.delete_faces`."""
        return Call(
            path=f"{self.path}/faces/delete",
            body=_body(ids=list(face_ids)),
            parse=lambda answer: list(map(str, answer["deleted"])),
        )

    def enrol(
        self,
        person_id: str,
        pictures: Sequence[PictureSource],
        options: EnrolOptions,
        name: str | None,
        face_ids: Sequence[str] | None,
    ) -> Call[list[Enrolled]]:
        """Return the call of `Collection.enrol`."""
        return self._enrol(person_id, len(pictures), options, name, face_ids, images=picture_fields(pictures))

    def enrol_vectors(
        self,
        person_id: str,
        vectors: ArrayLike,
        options: EnrolOptions,
        name: str | None,
        face_ids: Sequence[str] | None,
    ) -> Call[list[Enrolled]]:
        """Return the call of `Collection.enrol_vectors`."""
        texts = _texts(vectors)
        return self._enrol(person_id, len(texts), options, name, face_ids, vectors=texts)

    def _enrol(
        self,
        person_id: str,
        count: int,
        options: EnrolOptions,
        name: str | None,
        face_ids: Sequence[str] | None,
        **fields: Any,
    ) -> Call[list[Enrolled]]:
        # As of a person: a second attempt stores nothing twice.
        ids = [str(uuid.uuid4()) for _ in range(count)] if face_ids is None else list(face_ids)
        return Call(
            path=f"{self._person(person_id)}/faces",
            body=_body(name=name, ids=ids, **options.fields(), **fields),
            parse=lambda answer: list(map(_enrolled, answer["pictures"])),
        )

    def search_many(self, pictures: Sequence[PictureSource], options: SearchOptions) -> Call[list[SearchedPicture]]:
        """Return the call of `Collection.search_many`."""
        return Call(
            path=f"{self.path}/search",
            body=_body(images=picture_fields(pictures), **options.fields()),
            parse=lambda answer: list(map(_searched, answer["pictures"])),
        )

    def search(self, picture: PictureSource, options: SearchOptions) -> Call[tuple[FoundFace, ...]]:
        """Return the call of `Collection.search`."""
        call = self.search_many([picture], options)
        return Call(path=call.path, body=call.body, parse=lambda answer: _only(call.parse(answer)))

    def search_vectors(self, vectors: ArrayLike, options: SearchOptions) -> Call[list[FoundFace]]:
        """Return the call of `Collection.search_vectors`."""
        return Call(
            path=f"{self.path}/search",
            body=_body(vectors=_texts(vectors), **options.fields()),
            parse=lambda answer: list(map(_found, answer["vectors"])),
        )

    def import_part(self, part: bytes) -> Call[Imported]:
        """Return the call that sends some of an export."""
        return Call(path=f"{self.path}/import", body=part, content_type=_LINES, parse=_imported)

    def _person(self, person_id: str) -> str:
        return f"{self.path}/persons/{quote(person_id, safe='')}"


def list_collections_call() -> Call[list[CollectionInfo]]:
    """Return the call of `Collections.list`."""
    return Call(path=_PATH, parse=lambda answer: list(map(_collection, answer["collections"])))


def create_collection_call(name: str, metadata: Mapping[str, Any]) -> Call[CollectionInfo]:
    """Return the call of `Collections.create`."""
    return Call(path=_PATH, body=_body(name=name, metadata=dict(metadata)), parse=_collection, statuses=_MADE)


def bound(build: Callable[..., Call[Result]], *args: str | bytes) -> Callable[[], Call[Result]]:
    """Return what builds a call with these arguments as they are now."""
    return lambda: build(*args)


def parts_of(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines, each with its end, as many together as are sent at once."""
    part: list[bytes] = []
    num_bytes = 0
    for line in lines:
        if part and (len(part) == _PART_LINES or num_bytes + len(line) > _PART_BYTES):
            yield b"".join(part)
            part, num_bytes = [], 0
        part.append(line)
        num_bytes += len(line)
    if part:
        yield b"".join(part)


def lines_of(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yield the lines of a file, each with its end."""
    with Path(path).open("rb") as file:
        yield from file


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Callable[[bytes], object]]:
    """Give what writes to a new file, which is there when the block ends: whole, or not at all.

    Raises:
        OSError: It is there already, or cannot be written.
    """
    whole = Path(path)
    part = whole.with_name(f".{whole.name}.part")
    if whole.exists():
        raise FileExistsError(f"{whole} is there already")
    try:
        with part.open("wb") as file:
            yield file.write
        part.rename(whole)
    finally:
        part.unlink(missing_ok=True)


def _body(**fields: Any) -> bytes:
    return ormsgpack.packb({name: value for name, value in fields.items() if value is not None})


def _texts(vectors: ArrayLike) -> list[str]:
    """Return (N, L) vectors as base64 of little-endian float32.

    Raises:
        ValueError: Of another shape.
    """
    rows = np.asarray(vectors, "<f4")
    if rows.ndim != 2:
        raise ValueError(f"an array of shape (N, L) is wanted, not {rows.shape}")
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]


def _page(answer: Any, name: str, parse: Callable[[Any], Item]) -> _Page[Item]:
    return _Page(list(map(parse, answer[name])), answer["next"])


def _collection(answer: Any) -> CollectionInfo:
    model = answer["model"]
    return CollectionInfo(
        name=answer["name"],
        model=model["name"],
        model_sha256=model["sha256"],
        embedding_length=model["embedding_length"],
        metadata=answer["metadata"],
        num_persons=answer["persons"],
        num_faces=answer["faces"],
    )


def _person(answer: Any) -> Person:
    return Person(id=answer["id"], name=answer["name"], metadata=answer["metadata"], num_faces=answer["faces"])


def _face(answer: Any) -> StoredFace:
    return StoredFace(
        id=answer["id"], person_id=answer["person"], quality=answer["quality"], has_crop=answer["has_crop"]
    )


def _imported(answer: Any) -> Imported:
    return Imported(
        num_persons=answer["persons"],
        num_persons_added=answer["persons_added"],
        num_faces=answer["faces"],
        num_faces_added=answer["faces_added"],
    )


def _failure(slot: Any) -> PictureFailure | None:
    error = slot.get("error")
    return None if error is None else PictureFailure(message=str(error["message"]), code=str(error["code"]))


def _enrolled(slot: Any) -> Enrolled:
    near = slot["nearest"]
    return Enrolled(
        face=None if slot["face"] is None else _face(slot["face"]),
        failure=_failure(slot),
        nearest=None
        if near is None
        else Nearest(
            face_id=near["face"],
            person_id=near["person"],
            similarity=near["similarity"],
            is_duplicate=near["is_duplicate"],
        ),
    )


def _found(face: Any) -> FoundFace:
    matches = tuple(
        Match(
            person_id=match["person"]["id"],
            name=match["person"]["name"],
            metadata=match["person"]["metadata"],
            face_id=match["face"],
            similarity=match["similarity"],
        )
        for match in face["matches"]
    )
    box = face.get("box")
    return FoundFace(
        matches=matches,
        margin=face["margin"],
        box=None if box is None else np.asarray(box, np.float32),
        score=face.get("score"),
    )


def _searched(slot: Any) -> SearchedPicture:
    return SearchedPicture(faces=tuple(map(_found, slot["faces"])), failure=_failure(slot))


def _only(pictures: Sequence[SearchedPicture]) -> tuple[FoundFace, ...]:
    (picture,) = pictures
    if picture.failure is not None:
        raise PictureError(picture.failure.message, code=picture.failure.code)
    return picture.faces
