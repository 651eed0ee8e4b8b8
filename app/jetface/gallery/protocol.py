"""What a gallery does, wherever it is kept: on this machine's disk, in PostgreSQL, in Qdrant."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

from jetface.domain import Vector
from jetface.errors import ServiceError
from jetface.gallery.records import (
    Collection,
    Exported,
    Match,
    ModelPin,
    NewFace,
    NewPerson,
    Page,
    Person,
    Query,
    StoredFace,
)

NO_DEADLINE = float("inf")


class Gallery(Protocol):
    """Collections of persons. Every method belongs to one event loop; what it returns of changes is kept.

    Names and ids are checked by `check_id`, metadata is any JSON object. Each method raises NotFoundError where the
    collection, person or face that it names is not there, and StorageError where what keeps it fails. `after` of a list
    is the `next` of the page before it; empty at the beginning.
    """

    async def create_collection(
        self, name: str, model: ModelPin, metadata: Mapping[str, Any]
    ) -> tuple[Collection, bool]:
        """Return a collection, and whether it is new.

        Raises:
            ConflictError: One of that name holds embeddings of another recognizer.
        """
        ...

    async def collections(self) -> Sequence[Collection]:
        """Return all collections, by name."""
        ...

    async def collection(self, name: str) -> Collection:
        """Return a collection."""
        ...

    async def delete_collection(self, name: str) -> Collection:
        """Delete a collection with all that is in it."""
        ...

    async def replace_collection(self, old: str, new: str) -> None:
        """Delete the collection `old` and give its name to `new`, at once."""
        ...

    async def add_person(
        self, collection: str, person_id: str, name: str, metadata: Mapping[str, Any]
    ) -> tuple[Person, bool]:
        """Return a person, and whether it is new.

        Raises:
            ConflictError: There is one of that id with another name or other metadata.
        """
        ...

    async def persons(self, collection: str, *, after: str, limit: int) -> Page[Person]:
        """Return a page of the persons, in the order in which they were added."""
        ...

    async def person(self, collection: str, person_id: str) -> Person:
        """Return a person."""
        ...

    async def change_person(
        self, collection: str, person_id: str, *, name: str | None, metadata: Mapping[str, Any] | None
    ) -> Person:
        """Change what is not None of a person."""
        ...

    async def rename_person(self, collection: str, person_id: str, new_id: str) -> None:
        """Give a person another id and name; where one has that id, its faces join that one's."""
        ...

    async def delete_persons(self, collection: str, person_id: str | None) -> Sequence[Person]:
        """Delete a person, or with None all, for good; return who was deleted."""
        ...

    async def add_faces(
        self,
        collection: str,
        person_id: str,
        faces: Sequence[NewFace],
        *,
        name: str | None = None,
        deadline: float = NO_DEADLINE,
    ) -> Sequence[StoredFace | ServiceError]:
        """Store faces of a person, who is added, as `name`, if new.

        Returns:
            One outcome a face: what is stored, or why it is not. A face that is there already is stored.
        """
        ...

    async def add_all(
        self,
        collection: str,
        persons: Sequence[NewPerson],
        faces: Sequence[tuple[str, NewFace]],
        *,
        deadline: float = NO_DEADLINE,
    ) -> tuple[int, int]:
        """Add persons, and faces each with the id of its person, who is added if new: all of it, or nothing.

        Returns:
            How many persons and faces are new; the others are there already.

        Raises:
            ConflictError: There is a person of that id with another name or other metadata, or another face of that id.
        """
        ...

    async def faces(self, collection: str, person_id: str | None, *, after: str, limit: int) -> Page[StoredFace]:
        """Return a page of the faces of a person, or with None of all, in the order in which they were added."""
        ...

    async def face(self, collection: str, face_id: str) -> StoredFace:
        """Return a face."""
        ...

    async def delete_faces(self, collection: str, face_ids: Sequence[str]) -> Sequence[StoredFace]:
        """Delete those faces that are there, for good; return them. Their persons stay."""
        ...

    async def vector(self, collection: str, face_id: str) -> Vector:
        """Return the embedding of a face, of unit length."""
        ...

    async def crop(self, collection: str, face_id: str) -> bytes | None:
        """Return the aligned crop of a face as JPEG; None where it was not kept."""
        ...

    async def search(
        self, collection: str, queries: Sequence[Query], *, group: Hashable, deadline: float = NO_DEADLINE
    ) -> Sequence[Sequence[Match]]:
        """Return for each query the persons most like it, most alike first.

        The first `top_k` of at least `threshold` and the one after them are exact; what follows may be there.

        Args:
            collection: Its name.
            queries: Faces that are looked for.
            group: The request they belong to; requests take turns.
            deadline: `loop.time()` after which the answer is of no use.
        """
        ...

    async def last_face(self, collection: str) -> str:
        """Return the place of the face that was added last, as `until` takes it."""
        ...

    async def exported(self, collection: str, *, after: str, until: str, limit: int) -> Page[Exported]:
        """Return a page of all that is kept of the faces, in the order in which they were added, up to a place."""
        ...

    async def check(self, *, is_starting: bool) -> None:
        """Look whether `open` would succeed, without changing anything.

        Args:
            is_starting: Whether it is opened next: else a service that runs may be who has it.

        Raises:
            StorageError: As `open` would.
        """
        ...

    async def open(self) -> None:
        """Begin; raises StorageError where that is not possible."""
        ...

    async def close(self) -> None:
        """End: what has begun is finished."""
        ...
