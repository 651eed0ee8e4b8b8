"""The gallery on disk: one SQLite file, which is the truth. Calls block, so each connection has a thread of its own.

Written by one connection, in WAL mode and with `synchronous=FULL`: what a call has returned is on the disk as far as
`fsync` goes, and a process that is killed leaves either all of a call or nothing. A vector is 512 halves, 1 kB; pages
of 8 kB take seven of them with what belongs to each and waste little, where pages of 4 kB would waste a quarter.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from typing_extensions import Self

from jetface.errors import ConflictError, NotFoundError, ServiceError, StorageError, StorageFullError
from jetface.gallery.records import (
    LIKENESS_OF_DUPLICATES,
    UNSET_CLOCK_BEFORE_S,
    Collection,
    Exported,
    ModelPin,
    NewFace,
    NewPerson,
    Page,
    Person,
    StoredFace,
    is_same_metadata,
)

FILE_NAME = "gallery.sqlite3"
PAGE_BYTES = 8192
_ROWS_AT_ONCE = 1024
_BUSY_S = 10.0
_ERASE_PATIENCE_MS = 500
"""Longer than a search reads, and no time for who waits behind it while a backup does."""
_MAPPED_BYTES = 2**36
"""More than any gallery here: what is read is mapped, not copied into a cache of SQLite's own."""

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE collections(
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, model TEXT NOT NULL, sha256 TEXT NOT NULL,
    length INTEGER NOT NULL, metadata TEXT NOT NULL, created REAL NOT NULL,
    num_persons INTEGER NOT NULL DEFAULT 0, num_faces INTEGER NOT NULL DEFAULT 0);
CREATE TABLE persons(
    id INTEGER PRIMARY KEY AUTOINCREMENT, collection INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
    key TEXT NOT NULL, name TEXT NOT NULL, metadata TEXT NOT NULL, created REAL NOT NULL, UNIQUE(collection, key));
CREATE TABLE faces(
    id INTEGER PRIMARY KEY AUTOINCREMENT, collection INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
    person INTEGER NOT NULL REFERENCES persons ON DELETE CASCADE, key TEXT NOT NULL, quality REAL,
    created REAL NOT NULL, vector BLOB NOT NULL, UNIQUE(collection, key));
CREATE INDEX faces_of_person ON faces(person);
CREATE TABLE crops(face INTEGER PRIMARY KEY REFERENCES faces ON DELETE CASCADE, jpeg BLOB NOT NULL);
CREATE TRIGGER person_in AFTER INSERT ON persons
    BEGIN UPDATE collections SET num_persons = num_persons + 1 WHERE id = NEW.collection; END;
CREATE TRIGGER person_out AFTER DELETE ON persons
    BEGIN UPDATE collections SET num_persons = num_persons - 1 WHERE id = OLD.collection; END;
CREATE TRIGGER face_in AFTER INSERT ON faces
    BEGIN UPDATE collections SET num_faces = num_faces + 1 WHERE id = NEW.collection; END;
CREATE TRIGGER face_out AFTER DELETE ON faces
    BEGIN UPDATE collections SET num_faces = num_faces - 1 WHERE id = OLD.collection; END;
"""
"""Names of ours in `key`; what is counted in `collections` is kept by the triggers, in the same transaction."""

_COLLECTION = "SELECT name, model, sha256, length, metadata, created, num_persons, num_faces FROM collections"
_PERSON = "SELECT id, key, name, metadata, created, (SELECT count(*) FROM faces WHERE person = persons.id) FROM persons"
# A plus keeps SQLite from an index whose order would be sorted anew for each page of a list.
_FACE = (
    "SELECT faces.id, faces.key, persons.key, quality, faces.created, "
    "EXISTS(SELECT 1 FROM crops WHERE face = faces.id) FROM faces JOIN persons ON persons.id = faces.person"
)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Faces as the index takes them: row i of every array is the same face."""

    ids: NDArray[np.int64]
    persons: NDArray[np.int64]
    collections: NDArray[np.int64]
    vectors: NDArray[np.float16]
    """(N, length), of unit length but for the rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Added:
    """What came of faces that were to be stored."""

    outcomes: list[StoredFace | ServiceError]
    """One a face, in order."""
    rows: list[tuple[int, int, int]]
    """Of those that are new: the number in the call, the row of the face, the row of the person."""


class Store:
    """One connection to the file. Every method is called on one thread at a time; writing methods are transactions.

    Raises:
        StorageError: The disk failed or is full, from every method; nothing of the call is stored then.
    """

    def __init__(self, path: Path, *, is_writer: bool) -> None:
        """Open the file.

        Args:
            path: Of the file; a writer makes it.
            is_writer: Whether it may write. One process has one writer; its lock is `jetface.gallery.local`'s.
        """
        with _told():
            address = str(path) if is_writer else f"{path.absolute().as_uri()}?mode=ro"
            self._sql = sqlite3.connect(
                address, uri=not is_writer, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                if is_writer:
                    self._make()
                self._sql.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
            except BaseException:
                self._sql.close()
                raise

    def _make(self) -> None:
        for pragma in (
            f"page_size = {PAGE_BYTES}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            # What is deleted is overwritten, not only let go.
            "secure_delete = ON",
        ):
            self._sql.execute(f"PRAGMA {pragma}")
        (version,) = self._sql.execute("PRAGMA user_version").fetchone()
        if version == 0:
            with self._writing():
                for statement in _statements(_SCHEMA):
                    self._sql.execute(statement)
                self._sql.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self.check_version()

    def close(self) -> None:
        """Close the connection."""
        self._sql.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Make one transaction of a block."""
        with _told():
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._sql.execute("COMMIT")
            except BaseException:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
                raise

    def check_version(self, *, may_be_new: bool = False) -> None:
        """Refuse a file that is no gallery's, or of another version.

        Args:
            may_be_new: Whether nothing may be in it yet.

        Raises:
            StorageError: It is.
        """
        with _told():
            (version,) = self._sql.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION and not (may_be_new and version == 0):
            raise StorageError(f"The gallery's file is of version {version}; this jetface reads {SCHEMA_VERSION}.")

    # Collections

    def create_collection(self, name: str, model: ModelPin, metadata: str) -> tuple[int, bool]:
        """Return the row of a collection, and whether it is new.

        Raises:
            ConflictError: One of that name holds embeddings of another recognizer.
        """
        with self._writing():
            cursor = self._sql.execute(
                "INSERT INTO collections(name, model, sha256, length, metadata, created) VALUES(?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                (name, model.name, model.sha256, model.embedding_length, metadata, time.time()),
            )
            is_new = cursor.rowcount == 1
            row, sha256 = self._sql.execute("SELECT id, sha256 FROM collections WHERE name = ?", (name,)).fetchone()
            if sha256 != model.sha256:
                raise ConflictError("A collection of that name is there already, of another recognizer.")
        return row, is_new

    def collections(self) -> dict[str, tuple[int, Collection]]:
        """Return every collection and its row, by name."""
        with _told():
            found = self._sql.execute(_COLLECTION.replace("SELECT", "SELECT id,") + " ORDER BY name").fetchall()
        return {name: (row, _collection(name, *rest)) for row, name, *rest in found}

    def replace_collection(self, old: int, new: int) -> None:
        """Delete a collection and give its name to another."""
        with self._writing():
            (name,) = self._sql.execute("SELECT name FROM collections WHERE id = ?", (old,)).fetchone()
            self._sql.execute("DELETE FROM collections WHERE id = ?", (old,))
            self._sql.execute("UPDATE collections SET name = ? WHERE id = ?", (name, new))

    def delete_collection(self, collection: int) -> None:
        """Delete a collection, its persons and faces."""
        with self._writing():
            self._sql.execute("DELETE FROM collections WHERE id = ?", (collection,))

    def num_persons(self) -> int:
        """Count the persons of all collections."""
        with _told():
            (count,) = self._sql.execute("SELECT coalesce(sum(num_persons), 0) FROM collections").fetchone()
        return int(count)

    # Persons

    def add_person(self, collection: int, key: str, name: str, metadata: str) -> tuple[Person, bool]:
        """Return a person, and whether it is new.

        Raises:
            ConflictError: There is one of that id with another name or other metadata.
        """
        with self._writing():
            is_new = self._add_person(collection, key, name, metadata)
            return self._person(collection, key)[1], is_new

    def _add_person(self, collection: int, key: str, name: str, metadata: str) -> bool:
        is_new = self._insert_person(collection, key, name, metadata)
        if not is_new:
            _, person = self._person(collection, key)
            if person.name != name or not is_same_metadata(person.metadata, metadata):
                raise ConflictError(
                    "A person of that id is there already, with another name or other metadata.", person=key
                )
        return is_new

    def _insert_person(self, collection: int, key: str, name: str, metadata: str) -> bool:
        cursor = self._sql.execute(
            "INSERT INTO persons(collection, key, name, metadata, created) VALUES(?, ?, ?, ?, ?) "
            "ON CONFLICT(collection, key) DO NOTHING",
            (collection, key, name, metadata, time.time()),
        )
        return cursor.rowcount == 1

    def person(self, collection: int, key: str) -> Person:
        """Return a person.

        Raises:
            NotFoundError: There is none of that id.
        """
        with _told():
            return self._person(collection, key)[1]

    def _person(self, collection: int, key: str) -> tuple[int, Person]:
        found = self._sql.execute(f"{_PERSON} WHERE collection = ? AND key = ?", (collection, key)).fetchone()
        if found is None:
            raise NotFoundError("No person of that id is in the collection.")
        return found[0], _person(*found[1:])

    def persons(self, collection: int, *, after: int, limit: int) -> Page[Person]:
        """Return the next persons, in the order in which they were added."""
        with _told():
            found = self._sql.execute(
                f"{_PERSON} WHERE +collection = ? AND id > ? ORDER BY id LIMIT ?", (collection, after, limit + 1)
            ).fetchall()
        items = [_person(*rest) for _, *rest in found[:limit]]
        return Page(items, str(found[limit - 1][0]) if len(found) > limit else None)

    def change_person(self, collection: int, key: str, *, name: str | None, metadata: str | None) -> Person:
        """Change what is not None of a person; raises NotFoundError where there is none of that id."""
        with self._writing():
            self._sql.execute(
                "UPDATE persons SET name = coalesce(?, name), metadata = coalesce(?, metadata) "
                "WHERE collection = ? AND key = ?",
                (name, metadata, collection, key),
            )
            return self._person(collection, key)[1]

    def rename_person(self, collection: int, key: str, new_key: str) -> tuple[int, int]:
        """Give a person another id and name; where one has that id, its faces join that one's.

        Returns:
            The row that the faces had, and the row they have now; equal where nobody was joined.

        Raises:
            NotFoundError: There is none of that id.
        """
        with self._writing():
            row, _ = self._person(collection, key)
            found = self._sql.execute(
                "SELECT id FROM persons WHERE collection = ? AND key = ?", (collection, new_key)
            ).fetchone()
            if found is None or found[0] == row:
                self._sql.execute("UPDATE persons SET key = ?, name = ? WHERE id = ?", (new_key, new_key, row))
                return row, row
            self._sql.execute("UPDATE faces SET person = ? WHERE person = ?", (found[0], row))
            self._sql.execute("DELETE FROM persons WHERE id = ?", (row,))
            return row, int(found[0])

    def delete_persons(self, collection: int, key: str | None) -> list[tuple[int, Person]]:
        """Delete a person and its faces, or with None all persons; return them with their rows.

        Raises:
            NotFoundError: There is none of that id.
        """
        with self._writing():
            if key is not None:
                deleted = [self._person(collection, key)]
                self._sql.execute("DELETE FROM persons WHERE id = ?", (deleted[0][0],))
            else:
                found = self._sql.execute(f"{_PERSON} WHERE collection = ?", (collection,)).fetchall()
                deleted = [(row, _person(*rest)) for row, *rest in found]
                self._sql.execute("DELETE FROM persons WHERE collection = ?", (collection,))
        return deleted

    # Faces

    def add_faces(self, collection: int, key: str, name: str | None, faces: Sequence[NewFace]) -> Added:
        """Store faces of a person, who is added if new.

        A face whose id is there already with the same person and nearly the same vector is the same face, sent again;
        otherwise its outcome is a ConflictError.
        """
        with self._writing():
            self._insert_person(collection, key, key if name is None else name, "{}")
            person, _ = self._person(collection, key)
            outcomes: list[StoredFace | ServiceError] = []
            rows: list[tuple[int, int, int]] = []
            for number, face in enumerate(faces):
                row, outcome = self._add_face(collection, person, face)
                if row is not None:
                    rows.append((number, row, person))
                outcomes.append(outcome or self._face(collection, face.id)[1])
        return Added(outcomes, rows)

    def add_all(
        self, collection: int, persons: Sequence[NewPerson], faces: Sequence[tuple[str, NewFace]]
    ) -> tuple[int, list[tuple[int, int, int]]]:
        """Add persons, and faces each with the id of its person; return how many persons are new, and `Added.rows`.

        Raises:
            ConflictError: There is a person of that id with another name or other metadata, or another face of that
                id; nothing is added.
        """
        with self._writing():
            num_new = sum(self._add_person(collection, person.id, person.name, person.metadata) for person in persons)
            rows: list[tuple[int, int, int]] = []
            person_rows: dict[str, int] = {}
            for number, (key, face) in enumerate(faces):
                if key not in person_rows:
                    num_new += self._insert_person(collection, key, key, "{}")
                    person_rows[key] = self._person(collection, key)[0]
                row, error = self._add_face(collection, person_rows[key], face)
                if error is not None:
                    raise error
                if row is not None:
                    rows.append((number, row, person_rows[key]))
        return num_new, rows

    def _add_face(self, collection: int, person: int, face: NewFace) -> tuple[int | None, ConflictError | None]:
        """Return the row of a face that is new; the error where another one of that id is there."""
        added = self._sql.execute(
            "INSERT INTO faces(collection, person, key, quality, created, vector) VALUES(?, ?, ?, ?, ?, ?) "
            "ON CONFLICT(collection, key) DO NOTHING",
            (collection, person, face.id, face.quality, time.time(), _halves(face.vector)),
        )
        if added.rowcount == 1 and added.lastrowid is not None:
            if face.crop is not None:
                self._sql.execute("INSERT INTO crops VALUES(?, ?)", (added.lastrowid, face.crop))
            return added.lastrowid, None
        if self._is_same(collection, person, face):
            return None, None
        return None, ConflictError("A face of that id is there already, and is another one.", face=face.id)

    def _is_same(self, collection: int, person: int, face: NewFace) -> bool:
        owner, vector = self._sql.execute(
            "SELECT person, vector FROM faces WHERE collection = ? AND key = ?", (collection, face.id)
        ).fetchone()
        there = np.frombuffer(vector, np.float16).astype(np.float32)
        return owner == person and float(there @ face.vector) >= LIKENESS_OF_DUPLICATES

    def face(self, collection: int, key: str) -> StoredFace:
        """Return a face; raises NotFoundError where there is none of that id."""
        with _told():
            return self._face(collection, key)[1]

    def _face(self, collection: int, key: str) -> tuple[int, StoredFace]:
        found = self._sql.execute(f"{_FACE} WHERE faces.collection = ? AND faces.key = ?", (collection, key)).fetchone()
        if found is None:
            raise NotFoundError("No face of that id is in the collection.")
        return found[0], _face(*found[1:])

    def faces(self, collection: int, person: str | None, *, after: int, limit: int) -> Page[StoredFace]:
        """Return the next faces of a person, or with None of all, in the order in which they were added.

        Raises:
            NotFoundError: There is no person of that id.
        """
        with _told():
            where, value = "+faces.collection = ?", collection
            if person is not None:
                where, value = "faces.person = ?", self._person(collection, person)[0]
            found = self._sql.execute(
                f"{_FACE} WHERE {where} AND faces.id > ? ORDER BY faces.id LIMIT ?", (value, after, limit + 1)
            ).fetchall()
        items = [_face(*rest) for _, *rest in found[:limit]]
        return Page(items, str(found[limit - 1][0]) if len(found) > limit else None)

    def delete_faces(self, collection: int, keys: Sequence[str]) -> list[tuple[int, StoredFace]]:
        """Delete those faces that are there; return them with their rows. Their persons stay."""
        with self._writing():
            deleted = []
            for key in keys:
                try:
                    deleted.append(self._face(collection, key))
                except NotFoundError:
                    continue
                self._sql.execute("DELETE FROM faces WHERE id = ?", (deleted[-1][0],))
        return deleted

    def delete_older(self, created_before_s: float) -> list[tuple[int, int]]:
        """Delete faces that were stored before a time, and persons who have none left; return rows of collection, face.

        A person is older by the time when it was added. What a clock dated that had not been set is dated anew.
        """
        now_s = max(time.time(), UNSET_CLOCK_BEFORE_S)
        old: list[tuple[int, int]] = []
        with self._writing():
            # One pass over all faces where, as mostly, none is old.
            (oldest_s,) = self._sql.execute("SELECT min(created) FROM faces NOT INDEXED").fetchone()
            if oldest_s is not None and oldest_s < UNSET_CLOCK_BEFORE_S:
                self._sql.execute("UPDATE faces SET created = ? WHERE created < ?", (now_s, UNSET_CLOCK_BEFORE_S))
            if oldest_s is not None and oldest_s < created_before_s:
                old = self._sql.execute(
                    "SELECT collection, id FROM faces NOT INDEXED WHERE created < ?", (created_before_s,)
                ).fetchall()
                self._sql.execute("DELETE FROM faces WHERE created < ?", (created_before_s,))
            self._sql.execute("UPDATE persons SET created = ? WHERE created < ?", (now_s, UNSET_CLOCK_BEFORE_S))
            self._sql.execute(
                "DELETE FROM persons WHERE created < ? AND NOT EXISTS(SELECT 1 FROM faces WHERE person = persons.id)",
                (created_before_s,),
            )
        return old

    def crop(self, collection: int, key: str) -> bytes | None:
        """Return the crop of a face as JPEG; None where it was not kept.

        Raises:
            NotFoundError: There is no face of that id.
        """
        with _told():
            row, _ = self._face(collection, key)
            found = self._sql.execute("SELECT jpeg FROM crops WHERE face = ?", (row,)).fetchone()
        return None if found is None else bytes(found[0])

    def vector(self, collection: int, key: str) -> NDArray[np.float32]:
        """Return the (length,) vector of a face; raises NotFoundError where there is none of that id."""
        with _told():
            found = self._sql.execute(
                "SELECT vector FROM faces WHERE collection = ? AND key = ?", (collection, key)
            ).fetchone()
        if found is None:
            raise NotFoundError("No face of that id is in the collection.")
        return np.frombuffer(found[0], np.float16).astype(np.float32)

    # What searches read

    def rows(self) -> Iterator[Rows]:
        """Yield the faces of all collections, some at a time, as they lie."""
        with _told():
            cursor = self._sql.execute("SELECT id, person, collection, vector FROM faces NOT INDEXED")
            while found := cursor.fetchmany(_ROWS_AT_ONCE):
                # Collections may have vectors of several lengths.
                by_length: dict[int, list[tuple[int, int, int, bytes]]] = {}
                for row in found:
                    by_length.setdefault(len(row[3]), []).append(row)
                for same in by_length.values():
                    ids, persons, collections, vectors = zip(*same, strict=True)
                    yield Rows(
                        np.array(ids, np.int64),
                        np.array(persons, np.int64),
                        np.array(collections, np.int64),
                        np.frombuffer(b"".join(vectors), np.float16).reshape(len(same), -1),
                    )

    def vectors(self, ids: Sequence[int]) -> tuple[dict[int, int], NDArray[np.float32]]:
        """Return which row of (N, length) float32 each face is, by its id, as far as it is still there."""
        with _told():
            found = self._sql.execute(
                "SELECT id, vector FROM faces WHERE id IN (SELECT value FROM json_each(?))",
                (orjson.dumps(list(ids)).decode(),),
            ).fetchall()
        halves = np.frombuffer(b"".join([vector for _, vector in found]), np.float16)
        places = {row: place for place, (row, _) in enumerate(found)}
        return places, halves.reshape(len(found), -1).astype(np.float32) if found else np.empty((0, 0), np.float32)

    def people_of(self, ids: Sequence[int]) -> dict[int, tuple[str, str, str, str]]:
        """Return id, name and metadata of the person each face belongs to, and the face's own id, by the face's row."""
        with _told():
            found = self._sql.execute(
                "SELECT faces.id, persons.key, name, metadata, faces.key FROM faces "
                "JOIN persons ON persons.id = faces.person WHERE faces.id IN (SELECT value FROM json_each(?))",
                (orjson.dumps(list(ids)).decode(),),
            ).fetchall()
        return {row: tuple(rest) for row, *rest in found}

    def last_face(self, collection: int) -> int:
        """Return the row of the face that was added last; 0 where there is none."""
        with _told():
            found = self._sql.execute(
                "SELECT id FROM faces WHERE +collection = ? ORDER BY id DESC LIMIT 1", (collection,)
            ).fetchone()
        return 0 if found is None else int(found[0])

    def exported(self, collection: int, *, after: int, until: int, limit: int) -> Page[Exported]:
        """Return the next faces with vectors and crops, in the order in which they were added."""
        more = ", faces.vector, (SELECT jpeg FROM crops WHERE face = faces.id) FROM faces"
        query = _FACE.replace(" FROM faces JOIN", f"{more} JOIN")
        with _told():
            found = self._sql.execute(
                f"{query} WHERE +faces.collection = ? AND faces.id > ? AND faces.id <= ? ORDER BY faces.id LIMIT ?",
                (collection, after, until, limit + 1),
            ).fetchall()
        items = [
            Exported(face=_face(*facts), vector=np.frombuffer(vector, np.float16).astype(np.float32), crop=crop)
            for _, *facts, vector, crop in found[:limit]
        ]
        return Page(items, str(found[limit - 1][0]) if len(found) > limit else None)

    # The file

    def erase(self) -> bool:
        """Let nothing that was deleted stay in the log beside the file; the file itself is overwritten already.

        Returns:
            Whether the log is empty; not so while somebody reads, a backup perhaps.
        """
        with _told():
            self._sql.execute(f"PRAGMA busy_timeout = {_ERASE_PATIENCE_MS}")
            try:
                is_busy, *_ = self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._sql.execute(f"PRAGMA busy_timeout = {int(1000 * _BUSY_S)}")
        return not is_busy

    def back_up(self, path: Path) -> None:
        """Write a copy of the file, while it is written to, without what was deleted.

        Raises:
            StorageError: There is such a file, or it cannot be written.
        """
        with _told():
            self._sql.execute("VACUUM INTO ?", (str(path),))

    def faults(self) -> list[str]:
        """Return what is wrong with the file; empty where nothing is."""
        with _told():
            found = [str(fault) for (fault,) in self._sql.execute("PRAGMA integrity_check") if fault != "ok"]
            orphans = self._sql.execute("PRAGMA foreign_key_check").fetchall()
            miscounted = self._sql.execute(
                "SELECT name FROM collections WHERE num_faces <> (SELECT count(*) FROM faces WHERE collection = "
                "collections.id) OR num_persons <> (SELECT count(*) FROM persons WHERE collection = collections.id)"
            ).fetchall()
            torn = self._sql.execute(
                "SELECT count(*) FROM faces NOT INDEXED JOIN collections ON collections.id = collection "
                "WHERE length(vector) <> 2 * collections.length"
            ).fetchone()[0]
        found += [f"{len(orphans)} rows belong to nothing"] if orphans else []
        found += [f"collection {name} is counted wrongly" for (name,) in miscounted]
        found += [f"{torn} vectors are of a wrong length"] if torn else []
        return found


@contextmanager
def _told() -> Iterator[None]:
    """Turn what SQLite raises into an error of ours."""
    try:
        yield
    except sqlite3.Error as cause:
        # By its code where Python tells it (3.11), else by the words that go with it.
        if "disk is full" in str(cause):
            raise StorageFullError("The gallery's disk is full; nothing of this was stored.") from cause
        raise StorageError("The gallery's storage failed; the log says why.") from cause


def _statements(script: str) -> Iterator[str]:
    """Split a script, whose triggers have semicolons of their own."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _halves(vector: NDArray[np.float32]) -> bytes:
    return vector.astype("<f2").tobytes()


def _collection(
    name: str, model: str, sha256: str, length: int, metadata: str, created: float, num_persons: int, num_faces: int
) -> Collection:
    return Collection(
        name=name,
        model=ModelPin(name=model, sha256=sha256, embedding_length=length),
        metadata=orjson.loads(metadata),
        created_s=created,
        num_persons=num_persons,
        num_faces=num_faces,
    )


def _person(key: str, name: str, metadata: str, created: float, num_faces: int) -> Person:
    return Person(id=key, name=name, metadata=orjson.loads(metadata), created_s=created, num_faces=num_faces)


def _face(key: str, person: str, quality: float | None, created: float, has_crop: int) -> StoredFace:
    return StoredFace(id=key, person_id=person, quality=quality, created_s=created, has_crop=bool(has_crop))
