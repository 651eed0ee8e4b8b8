"""A collection as lines of JSON and back: what a service sends and takes, and what another program can read.

{"collection": {...}}   once, first: name, model, metadata
{"person": {...}}       id, name, metadata, created
{"face": {...}}         id, person, quality, created, model, vector, crop where it was kept

A vector is base64 of little-endian float32 of unit length, a crop base64 of a JPEG, `model` the checksum of the
recognizer. A line says all there is to know, so any run of lines can be imported by itself.

In a folder the same lies as files:

collection.json   name, recognizer, metadata
persons.jsonl     a person a line: id, name, metadata, created
faces.jsonl       a face a line: id, person, quality, created; line i is row i of the vectors
vectors.npy       (N, length) float32, of unit length
crops/I.jpg       the aligned face of row I, where crops were kept
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from jetface.errors import ModelMismatchError, RequestError
from jetface.gallery.protocol import Gallery
from jetface.gallery.records import (
    Collection,
    Exported,
    ModelPin,
    NewFace,
    NewPerson,
    Person,
    check_id,
    check_metadata,
    check_name,
    unit_row,
)

MAX_LINE_BYTES = 2**17
"""Longest line: a vector of 8,192 numbers and a crop are shorter."""
_READ_AT_ONCE = 64
"""Faces with crops, or persons with as much metadata as may be: a megabyte of lines."""
_STORED_AT_ONCE = 1000
_FILES = ("collection.json", "persons.jsonl", "faces.jsonl", "vectors.npy")
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionLine:
    """What an export says of its collection."""

    name: str
    model: ModelPin
    metadata: str
    """JSON, as `check_metadata` returns it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceLine:
    """A face of an export."""

    person_id: str
    sha256: str
    """Of the recognizer."""
    face: NewFace


Line: TypeAlias = CollectionLine | NewPerson | FaceLine


async def all_faces(gallery: Gallery, collection: str, until: str) -> AsyncIterator[Sequence[Exported]]:
    """Yield all that is kept of the faces up to a place, some at a time, in the order in which they were added."""
    after: str | None = ""
    while after is not None:
        page = await gallery.exported(collection, after=after, until=until, limit=_READ_AT_ONCE)
        yield page.items
        after = page.next


async def all_persons(gallery: Gallery, collection: str) -> AsyncIterator[Sequence[Person]]:
    """Yield the persons, some at a time, in the order in which they were added."""
    after: str | None = ""
    while after is not None:
        page = await gallery.persons(collection, after=after, limit=_READ_AT_ONCE)
        yield page.items
        after = page.next


async def export_lines(gallery: Gallery, collection: Collection) -> AsyncIterator[bytes]:
    """Yield a collection as whole lines, several at a time; faces that are enrolled meanwhile are not among them."""
    # Not by time: a clock that was set back would leave faces out. Of who comes later no line of a person is written.
    until = await gallery.last_face(collection.name)
    model = collection.model
    pin = {"name": model.name, "sha256": model.sha256, "embedding_length": model.embedding_length}
    yield _json({"collection": {"name": collection.name, "model": pin, "metadata": collection.metadata}})
    async for persons in all_persons(gallery, collection.name):
        yield b"".join(
            _json({"person": {"id": each.id, "name": each.name, "metadata": each.metadata, "created": each.created_s}})
            for each in persons
        )
    async for faces in all_faces(gallery, collection.name, until):
        yield b"".join(_face_line(each, model.sha256) for each in faces)


def _face_line(each: Exported, sha256: str) -> bytes:
    face = each.face
    vector = (each.vector / np.linalg.norm(each.vector)).astype("<f4")
    fields: dict[str, Any] = {
        "id": face.id,
        "person": face.person_id,
        "quality": face.quality,
        "created": face.created_s,
        "model": sha256,
        "vector": pybase64.b64encode_as_string(vector.tobytes()),
    }
    if each.crop is not None:
        fields["crop"] = pybase64.b64encode_as_string(each.crop)
    return _json({"face": fields})


def parse_line(line: bytes, model: ModelPin | None = None) -> Line:
    """Return what a line says.

    Args:
        line: Of an export.
        model: The recognizer of the collection that it is for, so that a vector of its has to have its length.

    Raises:
        RequestError: It is none of an export, or of another length.
    """
    if len(line) > MAX_LINE_BYTES:
        raise RequestError("The line is too long.", max_line_bytes=MAX_LINE_BYTES)
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise RequestError("Not JSON, or nested too deep.") from None
    if not isinstance(said, dict) or len(said) != 1:
        raise RequestError("An object is wanted that has one of collection, person and face.")
    ((kind, fields),) = said.items()
    read = _READ.get(kind)
    if read is None or not isinstance(fields, dict):
        raise RequestError("An object is wanted that has one of collection, person and face.")
    found = read(fields)
    if isinstance(found, FaceLine) and model is not None and found.sha256 == model.sha256:
        length = model.embedding_length
        if len(found.face.vector) != length:
            raise RequestError(
                f"vector: {len(found.face.vector)} numbers; the recognizer has {length}.", embedding_length=length
            )
    return found


def _read_collection(fields: Mapping[str, Any]) -> CollectionLine:
    model = _object(fields, "model")
    length = model.get("embedding_length")
    if type(length) is not int or not 0 < length <= MAX_LINE_BYTES:
        raise RequestError("embedding_length: a positive whole number.")
    return CollectionLine(
        name=check_id("name", _text(fields, "name")),
        model=ModelPin(name=_text(model, "name"), sha256=_text(model, "sha256"), embedding_length=length),
        metadata=check_metadata(_object(fields, "metadata")),
    )


def _read_person(fields: Mapping[str, Any]) -> NewPerson:
    return NewPerson(
        id=check_id("id", _text(fields, "id")),
        name=check_name("name", _text(fields, "name")),
        metadata=check_metadata(_object(fields, "metadata")),
    )


def _read_face(fields: Mapping[str, Any]) -> FaceLine:
    quality = fields.get("quality")
    if quality is not None and (type(quality) not in {int, float} or not 0 <= quality <= 1):
        raise RequestError("quality: a number from 0 to 1, or null.")
    data = _bytes(fields, "vector")
    if len(data) % 4:
        raise RequestError("vector: base64 of little-endian float32.")
    crop = None if fields.get("crop") is None else _bytes(fields, "crop")
    if crop is not None and not crop.startswith(_JPEG):
        raise RequestError("crop: base64 of a JPEG.")
    face = NewFace(
        vector=unit_row(np.frombuffer(data, "<f4"), "vector"),
        id=check_id("id", _text(fields, "id")),
        quality=None if quality is None else float(quality),
        crop=crop,
    )
    return FaceLine(person_id=check_id("person", _text(fields, "person")), sha256=_text(fields, "model"), face=face)


_READ: Mapping[str, Callable[[Mapping[str, Any]], Line]] = {
    "collection": _read_collection,
    "person": _read_person,
    "face": _read_face,
}


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{name}: a text.")
    return value


def _object(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise RequestError(f"{name}: an object.")
    return value


def _bytes(fields: Mapping[str, Any], name: str) -> bytes:
    try:
        return pybase64.b64decode(_text(fields, name), validate=True)
    except ValueError:
        raise RequestError(f"{name}: not base64.") from None


def persons_and_faces(
    lines: Iterable[Line], model: ModelPin, *, keeps_crops: bool
) -> tuple[list[NewPerson], list[tuple[str, NewFace]]]:
    """Return what lines add to a collection of a recognizer, as `Gallery.add_all` takes it; crops where they are kept.

    Raises:
        ModelMismatchError: They are of another recognizer.
    """
    persons: list[NewPerson] = []
    faces: list[tuple[str, NewFace]] = []
    for line in lines:
        if isinstance(line, NewPerson):
            persons.append(line)
            continue
        sha256 = line.sha256 if isinstance(line, FaceLine) else line.model.sha256
        if sha256 != model.sha256:
            raise ModelMismatchError(
                f"The lines have embeddings of another recognizer than {model.name}: they cannot be compared.",
                pinned={"sha256": sha256},
                serving={"model": model.name, "sha256": model.sha256},
            )
        if isinstance(line, FaceLine):
            faces.append((line.person_id, line.face if keeps_crops else replace(line.face, crop=None)))
    return persons, faces


async def import_lines(
    gallery: Gallery, lines: Iterable[bytes], name: str | None = None, *, keeps_crops: bool = True
) -> tuple[str, int]:
    """Add a whole export to a collection, which is made if missing; what is there already is passed over.

    Args:
        gallery: Where to.
        lines: One at a time.
        name: Of the collection; None: as the export has it.
        keeps_crops: Whether crops are stored.

    Returns:
        Its name, and how many faces the export has.

    Raises:
        RequestError: Not an export.
        ConflictError: A person or face of that id is there and differs, or the collection is of another recognizer.
            What was added until then stays.
    """
    rest = iter(lines)
    first = next(rest, None)
    described = None if first is None else parse_line(first)
    if not isinstance(described, CollectionLine):
        raise RequestError("The export does not begin with its collection.")
    name = described.name if name is None else check_id("name", name)
    await gallery.create_collection(name, described.model, orjson.loads(described.metadata))
    num_faces = 0
    parsed = (parse_line(line, described.model) for line in rest)
    while part := list(islice(parsed, _STORED_AT_ONCE)):
        persons, faces = persons_and_faces(part, described.model, keeps_crops=keeps_crops)
        await gallery.add_all(name, persons, faces)
        num_faces += len(faces)
    return name, num_faces


async def write_folder(pieces: AsyncIterator[bytes], folder: Path) -> int:
    """Write an export into a new folder; return how many faces it has.

    Args:
        pieces: Each of whole lines.
        folder: Made here.

    Raises:
        OSError: The folder is there already, or cannot be written.
        RequestError: The lines are none of an export.
    """
    folder.mkdir(mode=0o700, parents=True)  # noqa: ASYNC240 - a command has the loop for itself
    with ExitStack() as files:
        writer = _FolderWriter(folder, files)
        try:
            async for piece in pieces:
                for line in piece.splitlines():
                    ((kind, fields),) = orjson.loads(line).items()
                    writer.write(kind, fields)
            return writer.close()
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            raise RequestError("The lines are none of an export.") from cause


class _FolderWriter:
    """Writes the files of a folder."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self._folder = folder
        self._persons: BinaryIO = files.enter_context((folder / "persons.jsonl").open("xb"))
        self._faces: BinaryIO = files.enter_context((folder / "faces.jsonl").open("xb"))
        self._vectors: BinaryIO = files.enter_context((folder / "vectors.npy").open("xb"))
        self._num_faces = 0
        self._described: dict[str, Any] = {}

    def write(self, kind: str, fields: dict[str, Any]) -> None:
        """Write a line to where it belongs."""
        if kind == "collection":
            self._described = fields
            self._write_head()
        elif kind == "person":
            self._persons.write(_json(fields))
        else:
            del fields["model"]
            self._vectors.write(_bytes(fields, "vector"))
            del fields["vector"]
            if "crop" in fields:
                (self._folder / "crops").mkdir(exist_ok=True)
                (self._folder / "crops" / f"{self._num_faces}.jpg").write_bytes(_bytes(fields, "crop"))
                del fields["crop"]
            self._faces.write(_json(fields))
            self._num_faces += 1

    def _write_head(self) -> None:
        """Write what NumPy reads first; it has room for any number of rows."""
        length = int(self._described["model"]["embedding_length"])
        head = {"descr": "<f4", "fortran_order": False, "shape": (self._num_faces, length)}
        self._vectors.seek(0)
        np.lib.format.write_array_header_1_0(self._vectors, head)

    def close(self) -> int:
        """Let all of it be on the disk; return how many faces there are."""
        self._write_head()
        for file in (self._persons, self._faces, self._vectors):
            file.flush()
        # Last: a folder with this file is whole.
        (self._folder / "collection.json").write_bytes(_json(self._described))
        for written in (*self._folder.glob("*"), self._folder):
            if not written.is_dir() or written == self._folder:
                _sync(written)
        return self._num_faces


def read_folder(folder: Path) -> Iterator[bytes]:
    """Yield the lines of an export that `write_folder` has written.

    Raises:
        RequestError: Not an export, or a damaged one.
    """
    try:
        described = orjson.loads((folder / _FILES[0]).read_bytes())
        sha256, length = str(described["model"]["sha256"]), int(described["model"]["embedding_length"])
        vectors = _read_vectors(folder / "vectors.npy")
        with (folder / "faces.jsonl").open("rb") as faces:
            num_faces = sum(1 for _ in faces)
        if vectors.ndim != 2 or vectors.shape != (num_faces, length):
            raise RequestError("The export is damaged: it has not one vector for each face.")
        yield _json({"collection": described})
        with (folder / "persons.jsonl").open("rb") as persons:
            for line in persons:
                yield _json({"person": orjson.loads(line)})
        with (folder / "faces.jsonl").open("rb") as faces:
            for row, line in enumerate(faces):
                yield _json({"face": {**orjson.loads(line), **_of_row(folder, row, vectors, sha256)}})
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise RequestError("The folder holds no whole export of a collection.") from cause


def _read_vectors(path: Path) -> NDArray[Any]:
    """Map a NumPy file of numbers.

    Raises:
        ValueError: Another kind of file, or a header that lies.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, OverflowError, SyntaxError, TokenError) as cause:
        raise ValueError(f"{path.name}: {cause}") from cause
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        raise ValueError(f"{path.name}: no array of floating-point numbers")
    return found


def _of_row(folder: Path, row: int, vectors: NDArray[Any], sha256: str) -> dict[str, str]:
    fields = {"model": sha256, "vector": pybase64.b64encode_as_string(vectors[row].astype("<f4").tobytes())}
    crop = folder / "crops" / f"{row}.jpg"
    if crop.exists():
        with crop.open("rb") as file:
            # What is longer makes a line that is refused.
            fields["crop"] = pybase64.b64encode_as_string(file.read(MAX_LINE_BYTES))
    return fields


async def move_collection(
    gallery: Gallery, name: str, model: ModelPin, embed: Callable[[list[bytes]], Any], *, told: Callable[[int], Any]
) -> tuple[int, int]:
    """Give a collection to another recognizer, by the crops that were kept; it is searched as it was until the end.

    Args:
        gallery: Where it is.
        name: The collection.
        model: The recognizer.
        embed: Awaited with crops as JPEG, returns as many vectors of unit length.
        told: Called with the number of faces that are done.

    Returns:
        How many faces were embedded anew, and how many were left behind because their crop was not kept.
    """
    collection = await gallery.collection(name)
    until = await gallery.last_face(name)
    new_name = f"{name[:200]} of {model.sha256[:12]}"
    for other in await gallery.collections():
        if other.name == new_name:  # a run that was ended
            await gallery.delete_collection(new_name)
    await gallery.create_collection(new_name, model, collection.metadata)
    async for persons in all_persons(gallery, name):
        for person in persons:
            await gallery.add_person(new_name, person.id, person.name, person.metadata)
    num_moved = num_left = 0
    async for found in all_faces(gallery, name, until):
        kept = [each for each in found if each.crop is not None]
        num_left += len(found) - len(kept)
        vectors = await embed([each.crop for each in kept if each.crop is not None]) if kept else []
        faces = [
            (
                each.face.person_id,
                NewFace(vector=vector, id=each.face.id, quality=each.face.quality, crop=each.crop),
            )
            for each, vector in zip(kept, vectors, strict=True)
        ]
        await gallery.add_all(new_name, [], faces)
        num_moved += len(kept)
        told(num_moved)
    await gallery.replace_collection(name, new_name)
    return num_moved, num_left


def _json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
