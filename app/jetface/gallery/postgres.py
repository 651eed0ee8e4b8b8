"""A gallery in PostgreSQL with pgvector, for several replicas of the service: the database is all the state there is.

Searches are exact: the database compares the query with every face of the collection. There is no index in memory, so
what one replica has changed, the next search of any other sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import orjson
import psycopg
import structlog
from numpy.typing import NDArray
from psycopg import AsyncConnection
from psycopg.errors import DiskFull

from jetface.domain import Vector
from jetface.errors import ConflictError, NotFoundError, ServiceError, StorageError, StorageFullError
from jetface.gallery.protocol import NO_DEADLINE
from jetface.gallery.records import (
    LIKENESS_OF_DUPLICATES,
    UNSET_CLOCK_BEFORE_S,
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
    check_metadata,
    is_same_metadata,
    place_of,
)
from jetface.metrics import Metrics

NUM_CONNECTIONS = 4
_CONNECT_S = 10
_SWEEP_S = 30.0
_NO_END = 2**63 - 1
_SCHEMA_LOCK = 0x6A657466
"""Any number that nobody else locks: replicas that start together make the tables once."""

_SCHEMA = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE SCHEMA IF NOT EXISTS jetface;
CREATE TABLE IF NOT EXISTS jetface.collections(
    id BIGSERIAL PRIMARY KEY, name TEXT NOT NULL UNIQUE, model TEXT NOT NULL, sha256 TEXT NOT NULL,
    length INTEGER NOT NULL, metadata TEXT NOT NULL, created DOUBLE PRECISION NOT NULL);
CREATE TABLE IF NOT EXISTS jetface.persons(
    id BIGSERIAL PRIMARY KEY, collection BIGINT NOT NULL REFERENCES jetface.collections ON DELETE CASCADE,
    key TEXT NOT NULL, name TEXT NOT NULL, metadata TEXT NOT NULL, created DOUBLE PRECISION NOT NULL,
    UNIQUE(collection, key));
CREATE TABLE IF NOT EXISTS jetface.faces(
    id BIGSERIAL PRIMARY KEY, collection BIGINT NOT NULL REFERENCES jetface.collections ON DELETE CASCADE,
    person BIGINT NOT NULL REFERENCES jetface.persons ON DELETE CASCADE, key TEXT NOT NULL, quality DOUBLE PRECISION,
    created DOUBLE PRECISION NOT NULL, vector VECTOR NOT NULL, crop BYTEA, UNIQUE(collection, key));
CREATE INDEX IF NOT EXISTS faces_of_person ON jetface.faces(person);
"""
_COLLECTION = """
SELECT name, model, sha256, length, metadata, created,
    (SELECT count(*) FROM jetface.persons WHERE collection = c.id),
    (SELECT count(*) FROM jetface.faces WHERE collection = c.id), id
FROM jetface.collections c
"""
_PERSON = """
SELECT key, name, metadata, created, (SELECT count(*) FROM jetface.faces WHERE person = p.id), id FROM jetface.persons p
"""
_FACE = """
SELECT f.key, p.key, f.quality, f.created, f.crop IS NOT NULL, f.id, f.vector::text, f.crop
FROM jetface.faces f JOIN jetface.persons p ON p.id = f.person
"""
_NEAREST = """
SELECT p.key, p.name, p.metadata, best.key, -best.distance FROM (
    SELECT DISTINCT ON (person) person, key, vector <#> %(vector)s::vector AS distance
    FROM jetface.faces WHERE collection = %(collection)s ORDER BY person, distance
) best JOIN jetface.persons p ON p.id = best.person ORDER BY best.distance LIMIT %(count)s
"""

T = TypeVar("T")
_log = structlog.get_logger("jetface.gallery")


class PostgresGallery:
    """See `jetface.gallery.protocol.Gallery`. Any number of processes at once."""

    def __init__(self, url: str, metrics: Metrics, *, ttl_days: float = 0.0) -> None:
        """Take a database; it is connected to by `open`.

        Args:
            url: `postgresql://user:password@host/database`; the user may create a schema, and the extension `vector`
                is there or may be created.
            metrics: Where faces, persons and searches are counted.
            ttl_days: Faces older than this are deleted; 0: none is.
        """
        self._url = url
        self._metrics = metrics
        self._ttl_s = ttl_days * 86400
        self._free: asyncio.LifoQueue[AsyncConnection[Any] | None] = asyncio.LifoQueue()
        self._sweeping: asyncio.Task[None] | None = None

    async def check(self, *, is_starting: bool) -> None:
        """See `Gallery.check`; any number of processes may have it."""
        del is_starting
        self._free = asyncio.LifoQueue()
        self._free.put_nowait(None)
        try:
            await self._run(lambda sql: sql.execute("SELECT 1"))
        finally:
            await self.close()

    async def open(self) -> None:
        """Connect, and make the tables.

        Raises:
            StorageError: The database cannot be reached, or refuses.
        """
        self._free = asyncio.LifoQueue()
        for _ in range(NUM_CONNECTIONS):
            self._free.put_nowait(None)

        async def make(sql: AsyncConnection[Any]) -> None:
            await sql.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
            await sql.execute(_SCHEMA)

        await self._run(make)
        self._sweeping = asyncio.create_task(self._sweep(), name="sweep gallery")

    async def close(self) -> None:
        """Close the connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        while not self._free.empty():
            connection = self._free.get_nowait()
            if connection is not None:
                await connection.close()

    async def _sweep(self) -> None:
        while True:
            with contextlib.suppress(ServiceError):  # logged where it happened; tried again
                if self._ttl_s:
                    await self._delete_old(time.time() - self._ttl_s)
                await self._count()
            await asyncio.sleep(_SWEEP_S)

    async def _count(self) -> None:
        async def count(sql: AsyncConnection[Any]) -> tuple[int, int]:
            query = "SELECT (SELECT count(*) FROM jetface.faces), (SELECT count(*) FROM jetface.persons)"
            faces, persons = await _row(sql, query, ())
            return faces, persons

        faces, persons = await self._run(count)
        self._metrics.gallery_faces.set(faces)
        self._metrics.gallery_persons.set(persons)

    async def _delete_old(self, created_before_s: float) -> None:
        dates_anew = (max(time.time(), UNSET_CLOCK_BEFORE_S), UNSET_CLOCK_BEFORE_S)

        async def delete(sql: AsyncConnection[Any]) -> int:
            await sql.execute("UPDATE jetface.faces SET created = %s WHERE created < %s", dates_anew)
            await sql.execute("UPDATE jetface.persons SET created = %s WHERE created < %s", dates_anew)
            gone = await sql.execute("DELETE FROM jetface.faces WHERE created < %s", (created_before_s,))
            await sql.execute(
                "DELETE FROM jetface.persons p WHERE created < %s "
                "AND NOT EXISTS(SELECT 1 FROM jetface.faces WHERE person = p.id)",
                (created_before_s,),
            )
            return gone.rowcount

        if num_deleted := await self._run(delete):
            _log.info("old faces deleted", faces=num_deleted, ttl_days=self._ttl_s / 86400)

    # The database

    async def _run(self, function: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Call `function` with a connection, as one transaction."""
        async with self._connected() as sql, sql.transaction():
            return await function(sql)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection[Any]]:
        connection = await self._free.get()
        try:
            if connection is None or connection.closed:
                connection = await AsyncConnection.connect(self._url, autocommit=True, connect_timeout=_CONNECT_S)
            yield connection
        except DiskFull as cause:
            raise StorageFullError("The gallery's disk is full; nothing of this was stored.") from cause
        except psycopg.Error as cause:
            # The driver's own words may hold the address.
            _log.error("gallery's database failed", error=type(cause).__name__)
            raise StorageError("The gallery's database cannot be used; the log says why.") from cause
        finally:
            self._free.put_nowait(connection)

    # Collections

    async def create_collection(
        self, name: str, model: ModelPin, metadata: Mapping[str, Any]
    ) -> tuple[Collection, bool]:
        """See `Gallery.create_collection`."""
        written = check_metadata(metadata)

        async def create(sql: AsyncConnection[Any]) -> tuple[Collection, bool]:
            made = await sql.execute(
                "INSERT INTO jetface.collections(name, model, sha256, length, metadata, created) "
                "VALUES(%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (name, model.name, model.sha256, model.embedding_length, written, time.time()),
            )
            found, _ = await _collection(sql, name)
            if found.model.sha256 != model.sha256:
                raise ConflictError("A collection of that name is there already, of another recognizer.")
            return found, made.rowcount == 1

        return await self._run(create)

    async def collections(self) -> Sequence[Collection]:
        """See `Gallery.collections`."""

        async def read(sql: AsyncConnection[Any]) -> list[Collection]:
            return [_to_collection(row) for row in await _rows(sql, f"{_COLLECTION} ORDER BY name", ())]

        return await self._run(read)

    async def collection(self, name: str) -> Collection:
        """See `Gallery.collection`."""
        found, _ = await self._run(lambda sql: _collection(sql, name))
        return found

    async def delete_collection(self, name: str) -> Collection:
        """See `Gallery.delete_collection`."""

        async def delete(sql: AsyncConnection[Any]) -> Collection:
            found, row = await _collection(sql, name)
            await sql.execute("DELETE FROM jetface.collections WHERE id = %s", (row,))
            return found

        return await self._run(delete)

    async def replace_collection(self, old: str, new: str) -> None:
        """See `Gallery.replace_collection`."""

        async def replace(sql: AsyncConnection[Any]) -> None:
            _, old_row = await _collection(sql, old)
            _, new_row = await _collection(sql, new)
            await sql.execute("DELETE FROM jetface.collections WHERE id = %s", (old_row,))
            await sql.execute("UPDATE jetface.collections SET name = %s WHERE id = %s", (old, new_row))

        await self._run(replace)

    # Persons

    async def add_person(
        self, collection: str, person_id: str, name: str, metadata: Mapping[str, Any]
    ) -> tuple[Person, bool]:
        """See `Gallery.add_person`."""
        written = check_metadata(metadata)

        async def add(sql: AsyncConnection[Any]) -> tuple[Person, bool]:
            row = await _collection_row(sql, collection)
            is_new = await _add_person(sql, row, NewPerson(id=person_id, name=name, metadata=written))
            return (await _person(sql, row, person_id))[0], is_new

        return await self._run(add)

    async def persons(self, collection: str, *, after: str, limit: int) -> Page[Person]:
        """See `Gallery.persons`."""
        place = place_of(after)

        async def read(sql: AsyncConnection[Any]) -> Page[Person]:
            row = await _collection_row(sql, collection)
            query = f"{_PERSON} WHERE collection = %s AND id > %s ORDER BY id LIMIT %s"
            found = await _rows(sql, query, (row, place, limit + 1))
            return Page(list(map(_to_person, found[:limit])), str(found[limit - 1][5]) if len(found) > limit else None)

        return await self._run(read)

    async def person(self, collection: str, person_id: str) -> Person:
        """See `Gallery.person`."""

        async def read(sql: AsyncConnection[Any]) -> Person:
            return (await _person(sql, await _collection_row(sql, collection), person_id))[0]

        return await self._run(read)

    async def change_person(
        self, collection: str, person_id: str, *, name: str | None, metadata: Mapping[str, Any] | None
    ) -> Person:
        """See `Gallery.change_person`."""
        written = None if metadata is None else check_metadata(metadata)

        async def change(sql: AsyncConnection[Any]) -> Person:
            row = await _collection_row(sql, collection)
            await sql.execute(
                "UPDATE jetface.persons SET name = coalesce(%s, name), metadata = coalesce(%s, metadata) "
                "WHERE collection = %s AND key = %s",
                (name, written, row, person_id),
            )
            return (await _person(sql, row, person_id))[0]

        return await self._run(change)

    async def rename_person(self, collection: str, person_id: str, new_id: str) -> None:
        """See `Gallery.rename_person`."""

        async def rename(sql: AsyncConnection[Any]) -> None:
            row = await _collection_row(sql, collection)
            _, person = await _person(sql, row, person_id)
            query = "SELECT id FROM jetface.persons WHERE collection = %s AND key = %s"
            found = await _rows(sql, query, (row, new_id))
            if not found or found[0][0] == person:
                await sql.execute(
                    "UPDATE jetface.persons SET key = %s, name = %s WHERE id = %s", (new_id, new_id, person)
                )
                return
            await sql.execute("UPDATE jetface.faces SET person = %s WHERE person = %s", (found[0][0], person))
            await sql.execute("DELETE FROM jetface.persons WHERE id = %s", (person,))

        await self._run(rename)

    async def delete_persons(self, collection: str, person_id: str | None) -> Sequence[Person]:
        """See `Gallery.delete_persons`."""

        async def delete(sql: AsyncConnection[Any]) -> list[Person]:
            row = await _collection_row(sql, collection)
            if person_id is None:
                found = await _rows(sql, f"{_PERSON} WHERE collection = %s ORDER BY id", (row,))
                deleted = list(map(_to_person, found))
                await sql.execute("DELETE FROM jetface.persons WHERE collection = %s", (row,))
                return deleted
            person, person_row = await _person(sql, row, person_id)
            await sql.execute("DELETE FROM jetface.persons WHERE id = %s", (person_row,))
            return [person]

        return await self._run(delete)

    # Faces

    async def add_faces(
        self,
        collection: str,
        person_id: str,
        faces: Sequence[NewFace],
        *,
        name: str | None = None,
        deadline: float = NO_DEADLINE,
    ) -> Sequence[StoredFace | ServiceError]:
        """See `Gallery.add_faces`; a request's own deadline ends it."""
        del deadline

        async def add(sql: AsyncConnection[Any]) -> list[StoredFace | ServiceError]:
            row = await _collection_row(sql, collection)
            await _insert_person(sql, row, person_id, person_id if name is None else name, "{}")
            _, person = await _person(sql, row, person_id)
            outcomes: list[StoredFace | ServiceError] = []
            for face in faces:
                _, stored = await _add_face(sql, row, person_id, person, face)
                outcomes.append(stored)
            return outcomes

        return await self._run(add)

    async def add_all(
        self,
        collection: str,
        persons: Sequence[NewPerson],
        faces: Sequence[tuple[str, NewFace]],
        *,
        deadline: float = NO_DEADLINE,
    ) -> tuple[int, int]:
        """See `Gallery.add_all`; a request's own deadline ends it."""
        del deadline

        async def add(sql: AsyncConnection[Any]) -> tuple[int, int]:
            row = await _collection_row(sql, collection)
            num_persons = num_faces = 0
            for person in persons:
                num_persons += await _add_person(sql, row, person)
            person_rows: dict[str, int] = {}
            for person_id, face in faces:
                if person_id not in person_rows:
                    num_persons += await _insert_person(sql, row, person_id, person_id, "{}")
                    person_rows[person_id] = (await _person(sql, row, person_id))[1]
                is_new, outcome = await _add_face(sql, row, person_id, person_rows[person_id], face)
                if isinstance(outcome, ConflictError):
                    raise outcome
                num_faces += is_new
            return num_persons, num_faces

        return await self._run(add)

    async def faces(self, collection: str, person_id: str | None, *, after: str, limit: int) -> Page[StoredFace]:
        """See `Gallery.faces`."""
        page = await self._faces(collection, person_id, place_of(after), _NO_END, limit)
        return Page([each.face for each in page.items], page.next)

    async def last_face(self, collection: str) -> str:
        """See `Gallery.last_face`."""

        async def read(sql: AsyncConnection[Any]) -> str:
            row = await _collection_row(sql, collection)
            query = "SELECT coalesce(max(id), 0) FROM jetface.faces WHERE collection = %s"
            return str((await _row(sql, query, (row,)))[0])

        return await self._run(read)

    async def exported(self, collection: str, *, after: str, until: str, limit: int) -> Page[Exported]:
        """See `Gallery.exported`."""
        return await self._faces(collection, None, place_of(after), place_of(until), limit)

    async def _faces(self, collection: str, person_id: str | None, place: int, end: int, limit: int) -> Page[Exported]:

        async def read(sql: AsyncConnection[Any]) -> Page[Exported]:
            row = await _collection_row(sql, collection)
            where, value = "f.collection = %s", row
            if person_id is not None:
                where, value = "f.person = %s", (await _person(sql, row, person_id))[1]
            query = f"{_FACE} WHERE {where} AND f.id > %s AND f.id <= %s ORDER BY f.id LIMIT %s"
            found = await _rows(sql, query, (value, place, end, limit + 1))
            items = [Exported(face=_to_face(each), vector=_vector(each[6]), crop=each[7]) for each in found[:limit]]
            return Page(items, str(found[limit - 1][5]) if len(found) > limit else None)

        return await self._run(read)

    async def face(self, collection: str, face_id: str) -> StoredFace:
        """See `Gallery.face`."""
        return (await self._one(collection, face_id))[0]

    async def vector(self, collection: str, face_id: str) -> Vector:
        """See `Gallery.vector`."""
        return (await self._one(collection, face_id))[1]

    async def crop(self, collection: str, face_id: str) -> bytes | None:
        """See `Gallery.crop`."""
        return (await self._one(collection, face_id))[2]

    async def _one(self, collection: str, face_id: str) -> tuple[StoredFace, Vector, bytes | None]:
        async def read(sql: AsyncConnection[Any]) -> tuple[StoredFace, Vector, bytes | None]:
            return await _face(sql, await _collection_row(sql, collection), face_id)

        return await self._run(read)

    async def delete_faces(self, collection: str, face_ids: Sequence[str]) -> Sequence[StoredFace]:
        """See `Gallery.delete_faces`."""

        async def delete(sql: AsyncConnection[Any]) -> list[StoredFace]:
            row = await _collection_row(sql, collection)
            deleted = []
            for face_id in dict.fromkeys(face_ids):
                with contextlib.suppress(NotFoundError):
                    deleted.append((await _face(sql, row, face_id))[0])
            await sql.execute(
                "DELETE FROM jetface.faces WHERE collection = %s AND key = ANY(%s)",
                (row, [face.id for face in deleted]),
            )
            return deleted

        return await self._run(delete)

    async def search(
        self, collection: str, queries: Sequence[Query], *, group: Hashable, deadline: float = NO_DEADLINE
    ) -> Sequence[Sequence[Match]]:
        """See `Gallery.search`; a request's own deadline ends it, and connections are taken in turn."""
        del group, deadline

        async def look(sql: AsyncConnection[Any]) -> list[list[Match]]:
            row = await _collection_row(sql, collection)
            found = []
            for query in queries:
                started = time.perf_counter()
                wanted = {"vector": _text(query.vector), "collection": row, "count": query.top_k + 1}
                found.append(list(map(_to_match, await _rows(sql, _NEAREST, wanted))))
                self._metrics.gallery_search_seconds.labels("scan").observe(time.perf_counter() - started)
            return found

        return await self._run(look)


async def _rows(sql: AsyncConnection[Any], query: str, values: Any) -> list[Any]:
    # Every query is one of this module's, or two of them put together.
    return await (await sql.execute(query.encode(), values)).fetchall()


async def _row(sql: AsyncConnection[Any], query: str, values: Any) -> Any:
    (row,) = await _rows(sql, query, values)
    return row


async def _collection_row(sql: AsyncConnection[Any], name: str) -> int:
    """Return the row of a collection, which nobody deletes before the transaction ends."""
    found = await _rows(sql, "SELECT id FROM jetface.collections WHERE name = %s FOR KEY SHARE", (name,))
    if not found:
        raise NotFoundError("No collection of that name is in the gallery.")
    return int(found[0][0])


async def _collection(sql: AsyncConnection[Any], name: str) -> tuple[Collection, int]:
    found = await _rows(sql, f"{_COLLECTION} WHERE name = %s", (name,))
    if not found:
        raise NotFoundError("No collection of that name is in the gallery.")
    return _to_collection(found[0]), int(found[0][8])


async def _insert_person(sql: AsyncConnection[Any], row: int, person_id: str, name: str, metadata: str) -> bool:
    made = await sql.execute(
        "INSERT INTO jetface.persons(collection, key, name, metadata, created) VALUES(%s, %s, %s, %s, %s) "
        "ON CONFLICT(collection, key) DO NOTHING",
        (row, person_id, name, metadata, time.time()),
    )
    return made.rowcount == 1


async def _add_person(sql: AsyncConnection[Any], row: int, person: NewPerson) -> bool:
    """Return whether a person is new.

    Raises:
        ConflictError: There is one of that id with another name or other metadata.
    """
    is_new = await _insert_person(sql, row, person.id, person.name, person.metadata)
    if not is_new:
        there, _ = await _person(sql, row, person.id)
        if there.name != person.name or not is_same_metadata(there.metadata, person.metadata):
            raise ConflictError(
                "A person of that id is there already, with another name or other metadata.", person=person.id
            )
    return is_new


async def _add_face(
    sql: AsyncConnection[Any], row: int, person_id: str, person: int, face: NewFace
) -> tuple[bool, StoredFace | ConflictError]:
    """Return whether a face is new, and what is stored; the error where another one of that id is."""
    added = await sql.execute(
        "INSERT INTO jetface.faces(collection, person, key, quality, created, vector, crop) "
        "VALUES(%s, %s, %s, %s, %s, %s::vector, %s) ON CONFLICT(collection, key) DO NOTHING",
        (row, person, face.id, face.quality, time.time(), _text(face.vector), face.crop),
    )
    stored, vector, _ = await _face(sql, row, face.id)
    is_new = added.rowcount == 1
    if is_new or (stored.person_id == person_id and float(vector @ face.vector) >= LIKENESS_OF_DUPLICATES):
        return is_new, stored
    return False, ConflictError("A face of that id is there already, and is another one.", face=face.id)


async def _person(sql: AsyncConnection[Any], row: int, person_id: str) -> tuple[Person, int]:
    found = await _rows(sql, f"{_PERSON} WHERE collection = %s AND key = %s", (row, person_id))
    if not found:
        raise NotFoundError("No person of that id is in the collection.")
    return _to_person(found[0]), int(found[0][5])


async def _face(sql: AsyncConnection[Any], row: int, face_id: str) -> tuple[StoredFace, Vector, bytes | None]:
    found = await _rows(sql, f"{_FACE} WHERE f.collection = %s AND f.key = %s", (row, face_id))
    if not found:
        raise NotFoundError("No face of that id is in the collection.")
    crop = found[0][7]
    return _to_face(found[0]), _vector(found[0][6]), None if crop is None else bytes(crop)


def _to_collection(row: Any) -> Collection:
    name, model, sha256, length, metadata, created, num_persons, num_faces, _ = row
    return Collection(
        name=name,
        model=ModelPin(name=model, sha256=sha256, embedding_length=length),
        metadata=orjson.loads(metadata),
        created_s=created,
        num_persons=num_persons,
        num_faces=num_faces,
    )


def _to_person(row: Any) -> Person:
    key, name, metadata, created, num_faces, _ = row
    return Person(id=key, name=name, metadata=orjson.loads(metadata), created_s=created, num_faces=num_faces)


def _to_face(row: Any) -> StoredFace:
    key, person, quality, created, has_crop, *_ = row
    return StoredFace(id=key, person_id=person, quality=quality, created_s=created, has_crop=has_crop)


def _to_match(row: Any) -> Match:
    person_id, name, metadata, face_id, similarity = row
    return Match(
        person_id=person_id,
        name=name,
        metadata=orjson.loads(metadata),
        face_id=face_id,
        similarity=min(1.0, float(similarity)),
    )


def _text(vector: NDArray[np.float32]) -> str:
    """Return a vector as pgvector reads it."""
    return orjson.dumps(np.ascontiguousarray(vector), option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _vector(text: str) -> Vector:
    return np.array(orjson.loads(text), np.float32)
