"""The file: what was acknowledged is there, what was deleted is gone, what fails leaves nothing."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jetface.errors import ConflictError, NotFoundError, StorageError, StorageFullError
from jetface.gallery.records import UNSET_CLOCK_BEFORE_S, NewFace, StoredFace
from jetface.gallery.store import PAGE_BYTES, Store
from tests.support.gallery_faces import OTHER_PIN, PIN, new_faces, vectors_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gallery.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path, is_writer=True) as store:
        yield store


@pytest.fixture
def collection(store: Store) -> int:
    return store.create_collection("people", PIN, "{}")[0]


def bytes_on_disk(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in path.parent.iterdir())


def test_it_is_written_through(store: Store, path: Path) -> None:
    """FULL: a commit returns when `fsync` has; the journal is a log beside the file."""
    assert store._sql.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._sql.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._sql.execute("PRAGMA secure_delete").fetchone() == (1,)
    assert path.with_name(path.name + "-wal").exists()


def test_a_collection_is_made_once(store: Store) -> None:
    assert store.create_collection("people", PIN, "{}") == (1, True)
    assert store.create_collection("people", PIN, "{}") == (1, False)
    with pytest.raises(ConflictError):
        store.create_collection("people", OTHER_PIN, "{}")


def test_a_person_sent_again_is_the_same(store: Store, collection: int) -> None:
    first, is_new = store.add_person(collection, "ada", "Ada", '{"a":1}')
    assert is_new
    assert store.add_person(collection, "ada", "Ada", '{"a":1}') == (first, False)
    with pytest.raises(ConflictError):
        store.add_person(collection, "ada", "Grace", '{"a":1}')


def test_a_face_sent_again_is_the_same(store: Store, collection: int) -> None:
    one, other = vectors_of(2)[:, 0]
    first = store.add_faces(collection, "ada", None, [NewFace(vector=one, id="f1")])
    again = store.add_faces(collection, "ada", None, [NewFace(vector=one, id="f1")])
    assert again.outcomes == first.outcomes
    assert (len(first.rows), len(again.rows)) == (1, 0)
    for person, vector in (("ada", other), ("bob", one)):
        (refused,) = store.add_faces(collection, person, None, [NewFace(vector=vector, id="f1")]).outcomes
        assert isinstance(refused, ConflictError)


def test_lists_come_in_pages(store: Store, collection: int) -> None:
    for number in range(5):
        store.add_faces(collection, f"p{number}", None, new_faces(vectors_of(2, seed=number)[:, 0]))
    page = store.persons(collection, after=0, limit=3)
    assert [person.id for person in page.items] == ["p0", "p1", "p2"]
    assert page.next is not None
    rest = store.persons(collection, after=int(page.next), limit=3)
    assert [person.id for person in rest.items] == ["p3", "p4"]
    assert rest.next is None
    assert len(store.faces(collection, None, after=0, limit=100).items) == 10
    assert [face.person_id for face in store.faces(collection, "p3", after=0, limit=100).items] == ["p3", "p3"]


def test_counts_follow_what_is_added_and_deleted(store: Store, collection: int) -> None:
    for number in range(3):
        store.add_faces(collection, f"p{number}", None, new_faces(vectors_of(2, seed=number)[:, 0]))
    store.delete_persons(collection, "p0")
    face = store.faces(collection, "p1", after=0, limit=1).items[0]
    store.delete_faces(collection, [face.id, "unknown"])
    _, counted = store.collections()["people"]
    assert (counted.num_persons, counted.num_faces) == (2, 3)
    assert store.faults() == []


def test_who_is_not_there_is_told(store: Store, collection: int) -> None:
    for call in (
        lambda: store.person(collection, "x"),
        lambda: store.face(collection, "x"),
        lambda: store.crop(collection, "x"),
        lambda: store.delete_persons(collection, "x"),
        lambda: store.change_person(collection, "x", name="y", metadata=None),
        lambda: store.faces(collection, "x", after=0, limit=1),
    ):
        with pytest.raises(NotFoundError):
            call()


def test_a_person_renamed_to_another_joins_it(store: Store, collection: int) -> None:
    for key in ("a", "b"):
        store.add_faces(collection, key, None, new_faces(vectors_of(1, seed=ord(key))[0]))
    before, now = store.rename_person(collection, "a", "b")
    assert before != now
    assert store.person(collection, "b").num_faces == 2
    assert store.rename_person(collection, "b", "c")[0] == now
    assert store.person(collection, "c").name == "c"


def test_an_erased_person_is_nowhere_on_the_disk(store: Store, collection: int, path: Path) -> None:
    """Neither in free pages nor in the log: deleted rows are overwritten."""
    vector = vectors_of(1)[0, 0]
    crop = b"\xff\xd8 crop of Ada Lovelace" * 50
    store.add_faces(collection, "id-of-ada", "Ada Lovelace", [NewFace(vector=vector, crop=crop)])
    store.add_faces(collection, "bob", "Bob", new_faces(vectors_of(50, seed=1)[:, 0]))
    wanted = (vector.astype("<f2").tobytes()[:64], b"Ada Lovelace", b"id-of-ada")
    assert all(each in bytes_on_disk(path) for each in wanted)
    store.delete_persons(collection, "id-of-ada")
    assert store.erase()
    assert not any(each in bytes_on_disk(path) for each in wanted)


def test_a_reader_puts_the_last_of_erasing_off_and_holds_nobody_up(store: Store, collection: int, path: Path) -> None:
    vector = vectors_of(1)[0, 0]
    store.add_faces(collection, "ada", None, [NewFace(vector=vector)])
    with Store(path, is_writer=False) as reader:
        reader._sql.execute("BEGIN")
        reader._sql.execute("SELECT count(*) FROM faces").fetchone()
        store.delete_persons(collection, "ada")
        started = time.monotonic()
        assert not store.erase()
        assert time.monotonic() - started < 5
        reader._sql.execute("COMMIT")
        assert store.erase()
    assert vector.astype("<f2").tobytes()[:64] not in bytes_on_disk(path)


def test_old_faces_and_persons_without_any_go(store: Store, collection: int) -> None:
    for number in range(3):
        store.add_faces(collection, f"p{number}", None, new_faces(vectors_of(2, seed=number)[:, 0]))
    long_ago_s = UNSET_CLOCK_BEFORE_S + 1
    store._sql.execute("UPDATE faces SET created = ? WHERE id <= 3", (long_ago_s,))
    store._sql.execute("UPDATE persons SET created = ? WHERE id <= 2", (long_ago_s,))
    assert store.delete_older(long_ago_s) == []
    assert store.delete_older(long_ago_s + 1) == [(collection, 1), (collection, 2), (collection, 3)]
    assert [person.id for person in store.persons(collection, after=0, limit=9).items] == ["p1", "p2"]


def test_what_an_unset_clock_dated_counts_from_now(store: Store, collection: int) -> None:
    """As on a board without a battery, which begins in 1970 and is told the time later."""
    store.add_faces(collection, "ada", None, new_faces(vectors_of(2)[:, 0]))
    store._sql.execute("UPDATE faces SET created = 60.0 WHERE id = 1")
    store._sql.execute("UPDATE persons SET created = 60.0")
    before_s = time.time()
    assert store.delete_older(before_s - 86400) == []
    (face, _), (person,) = (
        store.faces(collection, "ada", after=0, limit=9).items,
        store.persons(collection, after=0, limit=9).items,
    )
    assert min(face.created_s, person.created_s) >= before_s
    assert [row for _, row in store.delete_older(time.time() + 1)] == [1, 2]


def test_a_full_disk_is_told_and_tears_nothing(store: Store, collection: int) -> None:
    store.add_faces(collection, "ada", None, new_faces(vectors_of(1)[0]))
    (num_pages,) = store._sql.execute("PRAGMA page_count").fetchone()
    store._sql.execute(f"PRAGMA max_page_count = {num_pages + 8}")
    stored = 1
    with pytest.raises(StorageFullError):  # noqa: PT012 - which of them fails first is of no interest
        for number in range(1000):
            store.add_faces(collection, f"p{number}", None, new_faces(vectors_of(3, seed=number)[:, 0]))
            stored += 3
    _, counted = store.collections()["people"]
    assert counted.num_faces == stored == store._sql.execute("SELECT count(*) FROM faces").fetchone()[0]
    assert store.faults() == []
    store._sql.execute("PRAGMA max_page_count = 100000")
    assert isinstance(store.add_faces(collection, "x", None, new_faces(vectors_of(1)[0])).outcomes[0], StoredFace)


def test_a_backup_is_taken_while_others_read_and_write(store: Store, collection: int, path: Path) -> None:
    store.add_faces(collection, "ada", None, new_faces(vectors_of(100)[:, 0]))
    with Store(path, is_writer=False) as reader:
        reader.back_up(path.with_name("copy.sqlite3"))
        store.add_faces(collection, "bob", None, new_faces(vectors_of(1, seed=1)[0]))
        with pytest.raises(StorageError):
            reader.back_up(path.with_name("copy.sqlite3"))
    with Store(path.with_name("copy.sqlite3"), is_writer=True) as copy:
        assert copy.collections()["people"][1].num_faces == 100
        assert copy.faults() == []


def test_a_damaged_file_is_told(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError):
        Store(path, is_writer=True)


def test_a_file_of_a_later_version_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as sql:
        sql.execute("PRAGMA user_version = 99")
    sql.close()
    with pytest.raises(StorageError) as told:
        Store(path, is_writer=True)
    assert "version 99" in str(told.value)
    assert str(path) not in map(os.path.realpath, Path("/proc/self/fd").iterdir())


def test_pages_are_mostly_full(store: Store, collection: int, path: Path) -> None:
    """A vector is 1,024 bytes; with its id, its indexes and what pages waste it takes less than 1,350."""
    vectors = vectors_of(200, 10).reshape(-1, 512)
    for start in range(0, 2000, 100):
        store.add_faces(collection, f"p{start}", None, new_faces(vectors[start : start + 100]))
    store.erase()
    assert path.stat().st_size % PAGE_BYTES == 0
    assert path.stat().st_size / 2000 < 1350


def test_rows_come_as_they_were_stored(store: Store, collection: int) -> None:
    short = store.create_collection("short", type(PIN)(name="short", sha256="c" * 64, embedding_length=128), "{}")[0]
    vectors = vectors_of(3)[:, 0]
    store.add_faces(collection, "ada", None, new_faces(vectors))
    store.add_faces(short, "ada", None, new_faces(vectors_of(1, length=128)[0]))
    found = list(store.rows())
    assert [rows.vectors.shape for rows in found] == [(3, 512), (1, 128)]
    np.testing.assert_allclose(found[0].vectors, vectors, atol=1e-4)
    assert found[1].collections.tolist() == [short]
