"""A collection into a folder of plain files and back: what another gallery, or another program, can read.

collection.json   name, recognizer, metadata
persons.jsonl     a person a line: id, name, metadata, created
faces.jsonl       a face a line: id, person, quality, created; line i is row i of the vectors
vectors.npy       (N, length) float32, of unit length
crops/I.jpg       the aligned face of row I, where crops were kept
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from jetface.errors import ConflictError, RequestError, ServiceError
from jetface.gallery.protocol import Gallery
from jetface.gallery.records import Exported, ModelPin, NewFace, Person, check_id, unit_rows

_AT_ONCE = 1000
_FILES = ("collection.json", "persons.jsonl", "faces.jsonl", "vectors.npy")


async def all_faces(gallery: Gallery, collection: str) -> AsyncIterator[Exported]:
    """Yield all that is kept of each face, in the order in which they were added."""
    after: str | None = ""
    while after is not None:
        page = await gallery.exported(collection, after=after, limit=_AT_ONCE)
        for each in page.items:
            yield each
        after = page.next


async def all_persons(gallery: Gallery, collection: str) -> AsyncIterator[Person]:
    """Yield each person, in the order in which they were added."""
    after: str | None = ""
    while after is not None:
        page = await gallery.persons(collection, after=after, limit=_AT_ONCE)
        for each in page.items:
            yield each
        after = page.next


async def export_collection(gallery: Gallery, name: str, folder: Path) -> int:
    """Write a collection into a new folder; return how many faces it has.

    Raises:
        OSError: The folder is there already, or cannot be written.
    """
    collection = await gallery.collection(name)
    folder.mkdir(parents=True)  # noqa: ASYNC240 - a command has the loop for itself
    persons = [_json(_person(person)) async for person in all_persons(gallery, name)]
    (folder / "persons.jsonl").write_bytes(b"".join(persons))
    shape = (collection.num_faces, collection.model.embedding_length)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.dtype("<f4"), shape) if shape[0] else None
    row = 0
    with (folder / "faces.jsonl").open("xb") as lines:
        async for each in all_faces(gallery, name):
            if vectors is None or row == shape[0]:  # enrolled since the count
                break
            face = each.face
            lines.write(
                _json({"id": face.id, "person": face.person_id, "quality": face.quality, "created": face.created_s})
            )
            vectors[row] = each.vector / np.linalg.norm(each.vector)
            if each.crop is not None:
                (folder / "crops").mkdir(exist_ok=True)
                (folder / "crops" / f"{row}.jpg").write_bytes(each.crop)
            row += 1
    if vectors is None:
        np.save(folder / "vectors.npy", np.empty(shape, "<f4"))
    else:
        vectors.flush()
        del vectors
    model = collection.model
    described = {
        "name": name,
        "model": {"name": model.name, "sha256": model.sha256, "embedding_length": model.embedding_length},
        "metadata": collection.metadata,
    }
    # Last: a folder with this file is whole.
    (folder / "collection.json").write_bytes(_json(described))
    for written in (*folder.glob("*"), folder):  # noqa: ASYNC240 - as above
        if not written.is_dir() or written == folder:
            _sync(written)
    return row


async def import_collection(gallery: Gallery, folder: Path, name: str | None = None) -> tuple[str, int]:
    """Add what an export holds to a collection, which is made if missing; what is there already is passed over.

    Args:
        gallery: Where to.
        folder: An export.
        name: Of the collection; None: as the export has it.

    Returns:
        Its name, and how many faces the export has.

    Raises:
        RequestError: Not an export, or a damaged one.
        ConflictError: A person or face of that id is there and differs, or the collection is of another recognizer.
    """
    try:
        described = orjson.loads((folder / _FILES[0]).read_bytes())
        model = ModelPin(
            name=str(described["model"]["name"]),
            sha256=str(described["model"]["sha256"]),
            embedding_length=int(described["model"]["embedding_length"]),
        )
        vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        persons = _lines(folder / "persons.jsonl")
        faces = _lines(folder / "faces.jsonl")
        name = check_id("name", str(described["name"] if name is None else name))
        if vectors.ndim != 2 or vectors.shape != (len(faces), model.embedding_length):
            raise RequestError("The export is damaged: it has not one vector for each face.")
        await gallery.create_collection(name, model, described["metadata"])
        for person in persons:
            await gallery.add_person(name, check_id("id", person["id"]), person["name"], person["metadata"])
        numbered = list(enumerate(faces))
        for person_id, group in groupby(numbered, key=lambda each: each[1]["person"]):
            await _import_faces(gallery, name, person_id, list(group), vectors, folder)
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise RequestError("The folder holds no whole export of a collection.") from cause
    return name, len(faces)


async def _import_faces(
    gallery: Gallery, name: str, person_id: str, group: list[tuple[int, Any]], vectors: Any, folder: Path
) -> None:
    for start in range(0, len(group), _AT_ONCE):
        part = group[start : start + _AT_ONCE]
        rows = unit_rows([vectors[row] for row, _ in part], vectors.shape[1])
        new = []
        for (row, face), vector in zip(part, rows, strict=True):
            crop = folder / "crops" / f"{row}.jpg"
            new.append(
                NewFace(
                    vector=vector,
                    id=check_id("id", face["id"]),
                    quality=face["quality"],
                    crop=crop.read_bytes() if crop.exists() else None,
                )
            )
        for outcome in await gallery.add_faces(name, person_id, new):
            if isinstance(outcome, ServiceError):
                raise ConflictError(f"The collection has another face of an id that the export has: {outcome.message}")


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
    new_name = f"{name[:200]} of {model.sha256[:12]}"
    for other in await gallery.collections():
        if other.name == new_name:  # a run that was ended
            await gallery.delete_collection(new_name)
    await gallery.create_collection(new_name, model, collection.metadata)
    async for person in all_persons(gallery, name):
        await gallery.add_person(new_name, person.id, person.name, person.metadata)
    num_moved = num_left = 0
    after: str | None = ""
    while after is not None:
        page = await gallery.exported(name, after=after, limit=64)
        kept = [each for each in page.items if each.crop is not None]
        num_left += len(page.items) - len(kept)
        vectors = await embed([each.crop for each in kept if each.crop is not None]) if kept else []
        for each, vector in zip(kept, vectors, strict=True):
            face = NewFace(vector=vector, id=each.face.id, quality=each.face.quality, crop=each.crop)
            await gallery.add_faces(new_name, each.face.person_id, [face])
        num_moved += len(kept)
        told(num_moved)
        after = page.next
    await gallery.replace_collection(name, new_name)
    return num_moved, num_left


def _person(person: Person) -> dict[str, Any]:
    return {"id": person.id, "name": person.name, "metadata": person.metadata, "created": person.created_s}


def _json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _lines(path: Path) -> list[Any]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines() if line]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
