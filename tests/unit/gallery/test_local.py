"""The gallery on disk: searches see what is kept, at once and exactly, whatever happens beside them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import generate_latest

from jetface.errors import (
    DeadlineExceededError,
    NotFoundError,
    QueueFullError,
    RequestError,
    StorageError,
    StorageFullError,
    told,
)
from jetface.gallery.local import LocalGallery
from jetface.gallery.records import NewFace, Query
from jetface.gallery.store import Store
from jetface.metrics import Metrics
from tests.support.gallery_faces import PIN, new_faces, vectors_of


def query(vector: NDArray[np.float32], top_k: int = 5, threshold: float = 0.3) -> Query:
    return Query(vector=vector, top_k=top_k, threshold=threshold)


async def fill(gallery: LocalGallery, vectors: NDArray[np.float32]) -> None:
    await gallery.create_collection("people", PIN, {})
    for number, faces in enumerate(vectors):
        await gallery.add_faces("people", f"p{number}", new_faces(faces))


async def found(gallery: LocalGallery, vector: NDArray[np.float32], top_k: int = 5) -> list[str]:
    (matches,) = await gallery.search("people", [query(vector, top_k)], group=None)
    return [match.person_id for match in matches]


async def test_what_was_changed_is_nowhere_on_the_disk(gallery: LocalGallery, tmp_path: Path, metrics: Metrics) -> None:
    """Neither after a change nor after the start of a process whose forerunner was killed before it had erased."""

    def on_disk() -> bytes:
        return b"".join(path.read_bytes() for path in (tmp_path / "gallery").glob("gallery.sqlite3*"))

    await gallery.create_collection("people", PIN, {})
    await gallery.add_person("people", "first-id", "Ada Lovelace", {"born": "in London"})
    assert all(each in on_disk() for each in (b"first-id", b"Ada Lovelace", b"in London"))
    await gallery.change_person("people", "first-id", name="A", metadata={})
    assert not any(each in on_disk() for each in (b"Ada Lovelace", b"in London"))
    await gallery.rename_person("people", "first-id", "other")
    assert b"first-id" not in on_disk()
    with Store(tmp_path / "gallery" / "gallery.sqlite3", is_writer=True) as killed:
        killed.delete_persons(1, "other")
        again = LocalGallery(tmp_path / "gallery", metrics)
        await gallery.close()
        assert b"other" in on_disk()
        await again.open()
        while b"other" in on_disk():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        await again.close()


async def test_its_folder_is_nobody_elses(gallery: LocalGallery, tmp_path: Path) -> None:
    del gallery
    assert (tmp_path / "gallery").stat().st_mode & 0o077 == 0


async def test_whether_it_would_open_is_known_without_opening_it(
    gallery: LocalGallery, tmp_path: Path, metrics: Metrics
) -> None:
    there = tmp_path / "gallery"
    with pytest.raises(StorageError, match="Another process"):
        await LocalGallery(there, metrics).check(is_starting=True)
    await LocalGallery(there, metrics).check(is_starting=False)
    await gallery.close()
    await LocalGallery(there, metrics).check(is_starting=True)
    new = tmp_path / "new" / "one"
    await LocalGallery(new, metrics).check(is_starting=True)
    assert not new.parent.exists()
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below", Path("/proc/none")):
        with pytest.raises(StorageError, match="may be written"):
            await LocalGallery(folder, metrics).check(is_starting=True)
    (there / "gallery.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError) as error:
        await LocalGallery(there, metrics).check(is_starting=True)
    assert told(error.value) == "The gallery's storage failed: file is not a database."


async def test_a_person_is_found_by_another_face(gallery: LocalGallery) -> None:
    vectors = vectors_of(50, 4)
    await fill(gallery, vectors[:, :3])
    queries = [query(faces[3]) for faces in vectors]
    for number, matches in enumerate(await gallery.search("people", queries, group=None)):
        assert matches[0].person_id == f"p{number}"
        exact = max(float(face @ vectors[number, 3]) for face in vectors[number, :3])
        assert matches[0].similarity == pytest.approx(exact, abs=1e-3)
        assert len({match.person_id for match in matches}) == len(matches)


async def test_the_ranking_is_that_of_float_arithmetic(gallery: LocalGallery) -> None:
    vectors = vectors_of(400, 2)
    await fill(gallery, vectors[:, :1])
    exact = vectors[:, 1] @ vectors[:, 0].T
    for row, matches in zip(
        exact, await gallery.search("people", [query(each) for each in vectors[:, 1]], group=None), strict=True
    ):
        order = np.argsort(-row)[: len(matches)]
        similarities = [match.similarity for match in matches]
        np.testing.assert_allclose(similarities, row[order], atol=1e-3)
        assert matches[0].person_id == f"p{row.argmax()}"


async def test_persons_with_many_faces_hide_nobody(gallery: LocalGallery) -> None:
    vectors = vectors_of(6, 200)
    await fill(gallery, vectors[:, :199])
    exact = np.array([(faces[:199] @ vectors[0, 199]).max() for faces in vectors])
    (matches,) = await gallery.search("people", [query(vectors[0, 199], threshold=-1.0)], group=None)
    assert [match.person_id for match in matches] == [f"p{number}" for number in np.argsort(-exact)]


async def test_inserts_and_deletes_are_visible_at_once(gallery: LocalGallery) -> None:
    vectors = vectors_of(20)[:, 0]
    await gallery.create_collection("people", PIN, {})
    for number, vector in enumerate(vectors):
        await gallery.add_faces("people", f"p{number}", new_faces(vector[None]))
        assert (await found(gallery, vector, 1))[0] == f"p{number}"
    for number, vector in enumerate(vectors):
        await gallery.delete_persons("people", f"p{number}")
        assert f"p{number}" not in await found(gallery, vector, 19)
    assert await found(gallery, vectors[0]) == []


async def test_deleting_what_is_being_searched_harms_nobody(gallery: LocalGallery) -> None:
    vectors = vectors_of(60, 3)
    await fill(gallery, vectors)

    async def search() -> None:
        for _ in range(30):
            matches = await gallery.search("people", [query(faces[0]) for faces in vectors[::7]], group=None)
            assert all(match.person_id for each in matches for match in each)

    async def delete() -> None:
        for number in range(0, 60, 2):
            await gallery.delete_persons("people", f"p{number}")
            await gallery.add_faces("people", f"new{number}", new_faces(vectors[number]))

    await asyncio.gather(search(), search(), delete())
    assert (await found(gallery, vectors[0, 0]))[0] == "new0"
    await asyncio.gather(search(), gallery.delete_collection("people"), return_exceptions=True)
    with pytest.raises(NotFoundError):
        await found(gallery, vectors[0, 0])


async def test_what_was_stored_is_there_after_a_start(tmp_path: Path, metrics: Metrics) -> None:
    vectors = vectors_of(30, 2)
    first = LocalGallery(tmp_path / "kept", metrics)
    await first.open()
    await fill(first, vectors[:, :1])
    await first.delete_persons("people", "p3")
    await first.close()
    again = LocalGallery(tmp_path / "kept", Metrics())
    await again.open()
    try:
        assert (await found(again, vectors[7, 1], 1))[0] == "p7"
        assert "p3" not in await found(again, vectors[3, 1], 28)
        assert (await again.collection("people")).num_faces == 29
    finally:
        await again.close()


async def test_one_process_has_a_folder(tmp_path: Path, gallery: LocalGallery) -> None:
    del gallery
    second = LocalGallery(tmp_path / "gallery", Metrics())
    with pytest.raises(StorageError, match="Another process"):
        await second.open()
    await second.close()


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    gallery = LocalGallery(tmp_path / "file" / "gallery", Metrics())
    with pytest.raises(StorageError, match="folder"):
        await gallery.open()
    await gallery.close()


async def test_a_full_disk_stores_nothing_and_searches_go_on(gallery: LocalGallery) -> None:
    vectors = vectors_of(10, 2)
    await fill(gallery, vectors[:, :1])
    (num_pages,) = gallery._written._sql.execute("PRAGMA page_count").fetchone()
    gallery._written._sql.execute(f"PRAGMA max_page_count = {num_pages}")
    with pytest.raises(StorageFullError):
        await gallery.add_faces("people", "new", new_faces(vectors_of(200, seed=5)[:, 0]))
    assert (await found(gallery, vectors[4, 1], 1))[0] == "p4"
    assert "new" not in await found(gallery, vectors_of(200, seed=5)[0, 0], 10)
    gallery._written._sql.execute("PRAGMA max_page_count = 100000")
    await gallery.add_faces("people", "new", new_faces(vectors_of(200, seed=5)[:, 0]))
    assert (await found(gallery, vectors_of(200, seed=5)[0, 0], 1))[0] == "new"


async def test_old_faces_are_deleted(tmp_path: Path) -> None:
    gallery = LocalGallery(tmp_path / "gallery", Metrics(), ttl_days=1.0)
    await gallery.open()
    vectors = vectors_of(3)
    await fill(gallery, vectors)
    await gallery._delete_old(time.time() + 1)
    assert await found(gallery, vectors[0, 0]) == []
    assert (await gallery.collection("people")).num_persons == 0
    await gallery.close()


async def test_a_late_search_is_told_so(gallery: LocalGallery) -> None:
    await fill(gallery, vectors_of(3))
    with pytest.raises(DeadlineExceededError):
        await gallery.search(
            "people", [query(vectors_of(1)[0, 0])], group=None, deadline=asyncio.get_running_loop().time() - 1
        )


async def test_what_waits_is_bounded(tmp_path: Path) -> None:
    gallery = LocalGallery(tmp_path / "gallery", Metrics(), max_waiting=8)
    await gallery.open()
    await fill(gallery, vectors_of(3))
    with pytest.raises(QueueFullError):
        await gallery.search("people", [query(vectors_of(1)[0, 0])] * 9, group=None)
    await gallery.close()


async def test_many_requests_share_scans(gallery: LocalGallery, metrics: Metrics) -> None:
    vectors = vectors_of(200, 2)
    await fill(gallery, vectors[:, :1])
    answers = await asyncio.gather(
        *(gallery.search("people", [query(faces[1])], group=number) for number, faces in enumerate(vectors))
    )
    assert [matches[0].person_id for (matches,) in answers] == [f"p{number}" for number in range(200)]
    shown = generate_latest(metrics.registry).decode()
    (runs,) = [line for line in shown.splitlines() if line.startswith('jetface_batch_size_count{model="gallery"}')]
    assert float(runs.split()[-1]) < 40
    assert "jetface_gallery_faces 200.0" in shown
    assert 'jetface_gallery_search_seconds_count{part="scan"} 200.0' in shown


async def test_pages_end_and_their_marks_are_checked(gallery: LocalGallery) -> None:
    await fill(gallery, vectors_of(5))
    page = await gallery.persons("people", after="", limit=5)
    assert (len(page.items), page.next) == (5, None)
    for after in ("x", "-1", "1" * 19, "１"):  # noqa: RUF001 - a digit, but not of ASCII
        with pytest.raises(RequestError, match="after"):
            await gallery.persons("people", after=after, limit=5)


async def test_a_collection_takes_the_place_of_another(gallery: LocalGallery) -> None:
    vectors = vectors_of(4)
    await fill(gallery, vectors)
    await gallery.create_collection("new", PIN, {})
    await gallery.add_faces("new", "only", [NewFace(vector=vectors[0, 0])])
    await gallery.replace_collection("people", "new")
    assert await found(gallery, vectors[0, 0]) == ["only"]
    assert [each.name for each in await gallery.collections()] == ["people"]


async def test_changes_of_persons(gallery: LocalGallery) -> None:
    await gallery.create_collection("people", PIN, {"of": "tests"})
    person, is_new = await gallery.add_person("people", "ada", "Ada", {"born": 1815})
    assert is_new
    assert dict(person.metadata) == {"born": 1815}
    assert (await gallery.change_person("people", "ada", name="Ada L.", metadata=None)).name == "Ada L."
    vector = vectors_of(1)[0, 0]
    (face,) = await gallery.add_faces("people", "ada", [NewFace(vector=vector, crop=b"jpeg", quality=0.5)])
    assert not isinstance(face, Exception)
    assert await gallery.crop("people", face.id) == b"jpeg"
    assert await gallery.face("people", face.id) == face
    await gallery.rename_person("people", "ada", "lovelace")
    assert await found(gallery, vector) == ["lovelace"]
    await gallery.add_faces("people", "other", new_faces(vectors_of(1, seed=9)[0]))
    await gallery.rename_person("people", "other", "lovelace")
    assert len((await gallery.faces("people", "lovelace", after="", limit=9)).items) == 2
    assert await found(gallery, vectors_of(1, seed=9)[0, 0]) == ["lovelace"]
    page = await gallery.exported("people", after="", until=await gallery.last_face("people"), limit=1)
    assert page.items[0].crop == b"jpeg"
    assert page.next is not None
    assert [each.id for each in await gallery.delete_faces("people", [face.id, "none"])] == [face.id]
    assert [each.id for each in await gallery.delete_persons("people", None)] == ["lovelace"]
    assert await found(gallery, vector) == []
