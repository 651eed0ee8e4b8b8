"""Both clients against the gallery of the started service."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetface_client import (
    AnswerError,
    AsyncClient,
    Client,
    EnrolOptions,
    Imported,
    PictureError,
    RequestRefusedError,
    SearchOptions,
    UnreachableError,
)
from jetface_client.gallery import parts_of
from tests.support.file_server import Answer, file_server
from tests.support.server import Server, running_server

Use = Callable[[str, Any], Any]


@pytest.fixture(scope="module")
def server(weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with a gallery."""
    variables = {**weights, "API_KEYS": "", "GALLERY_DIR": str(tmp_path_factory.mktemp("gallery"))}
    with running_server(tmp_path_factory.mktemp("server"), variables) as started:
        yield started


class Plain:
    """Either client's collections as plain calls: what is awaited is awaited, what is iterated becomes a list."""

    def __init__(self, target: Any, run: Callable[[Any], Any]) -> None:
        self._target = target
        self._run = run

    def __getitem__(self, name: str) -> Plain:
        return Plain(self._target[name], self._run)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        return (lambda *args, **kwargs: self._run(found(*args, **kwargs))) if callable(found) else found


@pytest.fixture(params=["sync", "async"])
def collections(request: pytest.FixtureRequest, server: Server) -> Iterator[Plain]:
    if request.param == "sync":
        with Client(server.url) as client:
            yield Plain(client.collections, lambda found: list(found) if inspect.isgenerator(found) else found)
        return
    loop = asyncio.new_event_loop()

    async def taken(found: Any) -> Any:
        return [each async for each in found] if inspect.isasyncgen(found) else await found

    connected = AsyncClient(server.url)
    yield Plain(connected.collections, lambda found: loop.run_until_complete(taken(found)))
    loop.run_until_complete(connected.aclose())
    loop.close()


def portraits(shared_faces: Path, name: str) -> list[Path]:
    return [shared_faces / name / f"{number}.jpg" for number in (1, 2, 3, 4)]


def test_people_are_enrolled_found_and_deleted(collections: Plain, shared_faces: Path, shared_images: Path) -> None:
    collections.create("people")
    people = collections["people"]
    gore, guevara = portraits(shared_faces, "Al_Gore"), portraits(shared_faces, "Ana_Guevara")
    enrolled = people.enrol("gore", gore[:3], EnrolOptions(largest=True), name="Al Gore", face_ids=["a", "b", "c"])
    assert [each.face.id for each in enrolled] == ["a", "b", "c"]
    again = people.enrol("gore", gore[:1], EnrolOptions(largest=True, skip_duplicates=True))
    assert again[0].face is None
    assert again[0].nearest.is_duplicate
    refused = people.enrol("guevara", [b"no picture", *guevara[:2]], EnrolOptions(largest=True))
    assert refused[0].failure.code == "image_decode"
    assert refused[1].failure is None

    face = max(people.search(gore[3], SearchOptions(top_k=2)), key=lambda face: face.box[2] - face.box[0])
    assert face.person.name == "Al Gore"
    assert face.person.similarity > 0.3
    assert face.margin > 0
    found = people.search_many([guevara[3], b"no picture", shared_images / "t1.jpg"])
    assert "guevara" in {face.person.person_id for face in found[0].faces if face.person}
    assert found[1].failure.code == "image_decode"
    assert [face.person for face in found[2].faces] == [None] * 6
    with pytest.raises(PictureError):
        people.search(b"no picture")

    assert people.info().num_faces == 5
    assert [person.id for person in people.persons()] == ["gore", "guevara"]
    assert people.change_person("gore", metadata={"x": 1}).metadata == {"x": 1}
    assert [each.id for each in people.faces("gore")] == ["a", "b", "c"]
    assert people.delete_faces(["a", "none"]) == ["a"]
    assert people.delete_person("gore").num_faces == 2
    with pytest.raises(RequestRefusedError):
        people.person("gore")
    assert people.delete().num_persons == 1
    assert collections.list() == []


def test_vectors_and_persons_by_any_id(collections: Plain) -> None:
    people = collections.create("vectors") and collections["vectors"]
    vectors = np.eye(3, 128, dtype=np.float32)
    person = people.add_person("Zoë / no".replace("/", "&"), name="Zoë")
    assert people.person(person.id) == person
    assert people.enrol_vectors(person.id, vectors[:2])[1].failure is None
    first, last = people.search_vectors(vectors[[0, 2]], SearchOptions(threshold=0.5))
    assert first.person.person_id == person.id
    assert last.person is None
    made_up = people.add_person(name="Nobody")
    assert len(made_up.id) == 36
    with pytest.raises(ValueError, match="shape"):
        people.search_vectors(vectors[0])
    with pytest.raises(RequestRefusedError) as refused:
        people.search_vectors(np.zeros((1, 128)))
    assert refused.value.code == "invalid_request"
    people.delete()


def test_a_collection_goes_out_and_in_as_a_file(collections: Plain, tmp_path: Path) -> None:
    """Line separators of Unicode are no ends of lines."""
    people = collections.create("out") and collections["out"]
    people.add_person("Zoë\u2028", name="Zoë")
    people.enrol_vectors("Zoë\u2028", np.eye(3, 128, dtype=np.float32))
    file = tmp_path / "people.jsonl"
    people.export(file)
    lines = file.read_bytes().splitlines(keepends=True)
    assert people.export_lines() == lines
    assert len(lines) == 5
    with pytest.raises(FileExistsError):
        people.export(file)
    copy = collections["in"]
    assert copy.import_(file) == Imported(num_persons=1, num_persons_added=1, num_faces=3, num_faces_added=3)
    assert copy.import_lines([*lines, *lines[1:2]]) == Imported(num_persons=2, num_faces=3)
    (found,) = copy.search_vectors(np.eye(1, 128, dtype=np.float32))
    assert found.person.name == "Zoë"
    people.delete()
    with pytest.raises(RequestRefusedError) as refused:
        people.export(tmp_path / "none.jsonl")
    assert refused.value.code == "not_found"
    assert [path.name for path in tmp_path.iterdir()] == ["people.jsonl"]
    with pytest.raises(RequestRefusedError, match="Line 1"):
        copy.import_lines([b"no line"])
    copy.delete()


def test_an_export_is_sent_in_parts() -> None:
    lines = [b"%d\n" % number for number in range(2500)]
    assert [part.count(b"\n") for part in parts_of(lines)] == [1000, 1000, 500]
    assert b"".join(parts_of(lines)) == b"".join(lines)
    long = [b"x" * 5 * 2**20, b"y" * 9 * 2**20, b"z"]
    assert [len(part) for part in parts_of(long)] == [len(line) for line in long]
    assert list(parts_of([])) == []


def test_an_export_that_breaks_leaves_no_file(tmp_path: Path) -> None:
    """A service that ends amid it is told from one that has sent all there is."""
    cut_off = Answer(b"{}\n" * 9, claimed_length=1000)
    with file_server({"/v1/collections/people/export": cut_off}) as served, Client(served.url) as client:
        with pytest.raises(UnreachableError):
            client.collections["people"].export(tmp_path / "people.jsonl")
        with pytest.raises(AnswerError, match="is this its address"):
            client.collections["other"].export(tmp_path / "people.jsonl")
    assert list(tmp_path.iterdir()) == []
