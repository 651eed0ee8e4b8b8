"""`/v1/collections/{collection}/export` and `/import`: a collection as lines of JSON, out and in."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import orjson
import pytest
import structlog

from jetface.api.requests import RequestLimits
from jetface.errors import RequestError
from jetface.gallery.local import LocalGallery
from jetface.gallery.records import NewPerson
from jetface.gallery.transfer import export_lines, parse_line, read_folder, write_folder
from tests.support.gallery_faces import OTHER_PIN, PIN, new_faces, vectors_of
from tests.support.gallery_service import PEOPLE, Served, portrait, served

EXPORT = "/v1/collections/people/export"
IMPORT = "/v1/collections/people/import"
LINES = {"content-type": "application/x-ndjson"}
JPEG = b"\xff\xd8\xff the rest of it"


@pytest.fixture
async def service(gallery: LocalGallery) -> AsyncIterator[Served]:
    """A service whose collection has three persons, the last of them without a face."""
    async with served(gallery, keeps_crops=True) as service:
        await gallery.create_collection("people", PIN, {"of": "tests"})
        await gallery.add_person("people", "ada", "Ada", {"born": 1815})
        await gallery.add_faces("people", "ada", new_faces(PEOPLE[0], crop=JPEG, quality=0.5))
        await gallery.add_faces("people", "zoë\u2028", new_faces(PEOPLE[1]))
        await gallery.add_person("people", "faceless", "Grace", {})
        yield service


def lines_of(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [orjson.loads(line) for line in answer.content.split(b"\n") if line]


async def sent(service: Served, *lines: object, path: str = IMPORT) -> httpx.Response:
    content = b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    return await service.client.post(path, content=content, headers=LINES)


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def text_of(vector: Any) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def a_face(**fields: Any) -> dict[str, Any]:
    face = {"id": "new", "person": "ada", "quality": 0.5, "model": PIN.sha256, "vector": text_of(PEOPLE[5, 0])}
    return {"face": {name: value for name, value in {**face, **fields}.items() if value is not ...}}


def a_person(**fields: Any) -> dict[str, Any]:
    return {"person": {"id": "new", "name": "New", "metadata": {}, **fields}}


class Watched:
    """A gallery, and what it was asked."""

    def __init__(self, gallery: LocalGallery) -> None:
        self.asked: list[str] = []
        self._gallery = gallery

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        return getattr(self._gallery, name)


COLLECTION = {
    "name": "people",
    "model": {"name": PIN.name, "sha256": PIN.sha256, "embedding_length": PIN.embedding_length},
    "metadata": {},
}


class TestExport:
    async def test_all_there_is_comes_as_lines(self, service: Served) -> None:
        answer = await service.client.get(EXPORT)
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["cache-control"] == "private, no-store"
        head, *rest = lines_of(answer)
        assert head == {"collection": {**COLLECTION, "metadata": {"of": "tests"}}}
        persons = [line["person"] for line in rest if "person" in line]
        assert [(each["id"], each["name"], each["metadata"]) for each in persons] == [
            ("ada", "Ada", {"born": 1815}),
            ("zoë\u2028", "zoë\u2028", {}),
            ("faceless", "Grace", {}),
        ]
        faces = [line["face"] for line in rest if "face" in line]
        assert [each["person"] for each in faces] == ["ada"] * 4 + ["zoë\u2028"] * 4
        assert {each["model"] for each in faces} == {PIN.sha256}
        assert [base64.b64decode(each["crop"]) for each in faces if "crop" in each] == [JPEG] * 4
        vectors = np.array([np.frombuffer(base64.b64decode(each["vector"]), "<f4") for each in faces])
        np.testing.assert_allclose(vectors, PEOPLE[:2].reshape(8, -1), atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)

    async def test_it_comes_and_goes_as_plain_bytes_too(self, service: Served) -> None:
        """Which is what generated clients know."""
        plain = "application/octet-stream"
        answer = await service.client.get(EXPORT, headers={"accept": plain})
        assert answer.headers["content-type"] == plain
        again = await service.client.post(IMPORT, content=answer.content, headers={"content-type": plain})
        assert again.json()["faces"] == 8

    async def test_it_is_told_in_the_audit_log_and_counted(self, service: Served) -> None:
        with structlog.testing.capture_logs() as logs:
            await service.client.get(EXPORT)
            lines = (await service.client.get(EXPORT)).content
            await service.client.post("/v1/collections/copy/import", content=lines, headers=LINES)
        exported, _, imported = (line for line in logs if line["event"] == "gallery")
        assert (exported["action"], exported["persons"], exported["faces"]) == ("export", 3, 8)
        assert (imported["action"], imported["persons_added"], imported["stored"]) == ("import", 3, 8)
        metrics = service.harness.metrics.registry
        assert metrics.get_sample_value("jetface_gallery_exports_total") == 2
        assert metrics.get_sample_value("jetface_gallery_changes_total", {"change": "stored"}) == 8

    async def test_who_is_enrolled_meanwhile_is_not_in_it(self, service: Served) -> None:
        """A face whose person has no line would come in again under its id alone."""
        pieces = export_lines(service.gallery, await service.gallery.collection("people"))
        head, persons = await anext(pieces), await anext(pieces)
        await service.enrol("bob", portrait(3, 0))
        faces = b"".join([piece async for piece in pieces])
        assert [text.count(b"\n") for text in (head, persons, faces)] == [1, 3, 8]

    async def test_for_its_headers_nothing_is_read(self, gallery: LocalGallery) -> None:
        watched = Watched(gallery)
        async with served(cast("LocalGallery", watched)) as service:
            await gallery.create_collection("people", PIN, {})
            with structlog.testing.capture_logs() as logs:
                head = await service.client.head(EXPORT)
            assert (head.status_code, head.content) == (200, b"")
            assert "exported" not in watched.asked
            assert not [line for line in logs if line["event"] == "gallery"]
            assert service.harness.metrics.registry.get_sample_value("jetface_gallery_exports_total") == 0
            full = await service.client.get(EXPORT)
            assert "exported" in watched.asked
            assert [head.headers[name] == full.headers[name] for name in ("content-type", "cache-control")] == [
                True
            ] * 2
            assert (await service.client.head("/v1/collections/none/export")).status_code == 404

    async def test_a_collection_that_is_not_there_is_told_before_anything_is_sent(self, service: Served) -> None:
        assert error_of(await service.client.get("/v1/collections/none/export"))[:2] == (404, "not_found")

    async def test_a_client_that_goes_ends_it(self, service: Served) -> None:
        """Pages are read as they are sent, so that a large collection is never in memory, nor read for nobody."""
        for number, faces in enumerate(vectors_of(100, 10, seed=1)):
            await service.gallery.add_faces("people", f"p{number}", new_faces(faces))
        sizes: list[int] = []
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": EXPORT,
            "raw_path": EXPORT.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": [],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        is_gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await is_gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sizes.append(len(message.get("body", b"")))
            if len(sizes) == 5:
                is_gone.set()
                await asyncio.sleep(3600)

        await asyncio.wait_for(service.harness.app(scope, receive, send), 30)
        assert len(sizes) == 5
        assert max(sizes) < 2**18

    async def test_faces_of_a_clock_that_was_ahead_are_in_it(self, service: Served, gallery: LocalGallery) -> None:
        gallery._written._sql.execute("UPDATE faces SET created = created + 86400")
        assert len([line for line in lines_of(await service.client.get(EXPORT)) if "face" in line]) == 8


class TestImport:
    async def test_an_export_makes_the_same_collection(self, service: Served) -> None:
        lines = (await service.client.get(EXPORT)).content
        answer = await service.client.post("/v1/collections/copy/import", content=lines, headers=LINES)
        told = answer.json()
        assert told.pop("took_ms") > 0
        assert told == {"persons": 3, "persons_added": 3, "faces": 8, "faces_added": 8}
        copy = lines_of(await service.client.get("/v1/collections/copy/export"))
        original = [orjson.loads(line) for line in lines.splitlines() if line]
        for (made,), (was,) in zip((line.values() for line in copy), (line.values() for line in original), strict=True):
            assert {**made, "created": 0, "name": 0, "vector": 0} == {**was, "created": 0, "name": 0, "vector": 0}
        assert await service.search(portrait(0, 1), collection="copy") == [[["ada"]]]
        again = await service.client.post("/v1/collections/copy/import", content=lines, headers=LINES)
        assert (again.json()["persons_added"], again.json()["faces_added"]) == (0, 0)

    async def test_any_run_of_lines_goes_in_by_itself(self, service: Served) -> None:
        head, *rest = (await service.client.get(EXPORT)).content.splitlines(keepends=True)
        path = "/v1/collections/copy/import"
        assert error_of(await sent(service, *rest[:3], path=path))[:2] == (404, "not_found")
        for part in ([head], *([line] for line in rest), [b"", b" \r"]):
            assert (await sent(service, *part, path=path)).status_code == 200
        assert (await service.gallery.collection("copy")).num_faces == 8
        assert (await service.gallery.person("copy", "ada")).name == "Ada"

    async def test_where_crops_are_not_kept_they_are_left_out(self, gallery: LocalGallery) -> None:
        async with served(gallery, keeps_crops=False) as service:
            crop = base64.b64encode(JPEG).decode()
            assert (await sent(service, {"collection": COLLECTION}, a_face(crop=crop))).status_code == 200
        assert not (await gallery.face("people", "new")).has_crop

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            (b"{", "Not JSON"),
            (b"[" * 10_000, "Not JSON"),
            (b"NaN", "Not JSON"),
            (b"[]", "An object is wanted"),
            (b"{}", "An object is wanted"),
            ({"person": []}, "An object is wanted"),
            ({"../../etc/passwd": {}}, "An object is wanted"),
            ({**a_person(), **a_face()}, "An object is wanted"),
            (b" " * 2**17 + b"{}", "too long"),
            (a_person(id=None), "id: a text"),
            (a_person(id="../x"), "id: no slash"),
            (a_person(id="x" * 257), "id: 1 to 256"),
            (a_person(name="a\x00"), "name: no control"),
            (a_person(metadata=[]), "metadata: an object"),
            (a_person(metadata={"x": "y" * 2**15}), "metadata: at most"),
            (a_face(id=".."), "id: no slash"),
            (a_face(person="a/b"), "person: no slash"),
            (a_face(model=...), "model: a text"),
            (a_face(quality=1.5), "quality"),
            (a_face(quality="1"), "quality"),
            (a_face(quality=True), "quality"),
            (a_face(vector=...), "vector: a text"),
            (a_face(vector="?"), "vector: not base64"),
            (a_face(vector=""), "vector: not finite"),
            (a_face(vector=base64.b64encode(b"12345").decode()), "vector: base64 of"),
            (a_face(vector=text_of(np.full(512, np.nan))), "vector: not finite"),
            (a_face(vector=text_of([np.inf] + [0] * 511)), "vector: not finite"),
            (a_face(vector=text_of(np.zeros(512))), "vector: not finite"),
            (a_face(crop=base64.b64encode(b"<svg>").decode()), "crop: base64 of a JPEG"),
            ({"collection": {**COLLECTION, "model": {"name": "x", "sha256": "y"}}}, "embedding_length"),
            ({"collection": {**COLLECTION, "model": "x"}}, "model: an object"),
        ],
    )
    async def test_what_is_no_line_is_refused_with_its_number(self, service: Served, line: object, told: str) -> None:
        status, code, message = error_of(await sent(service, a_person(), line))
        assert (status, code) == (422, "invalid_request")
        assert message.startswith("Line 2: ")
        assert told in message
        assert len(message) < 200
        assert (await service.gallery.collection("people")).num_persons == 3

    async def test_a_vector_of_another_length_is_refused(self, service: Served) -> None:
        answer = await sent(service, a_person(), b"", a_face(vector=text_of(np.ones(128))))
        assert error_of(answer)[::2] == (422, "Line 3: vector: 128 numbers; the recognizer has 512.")
        assert answer.json()["error"]["details"] == {"embedding_length": 512}
        of_other = a_face(model=OTHER_PIN.sha256, vector=text_of(np.ones(128)))
        assert error_of(await sent(service, of_other))[:2] == (409, "model_mismatch")

    async def test_vectors_are_stored_at_unit_length(self, service: Served) -> None:
        assert (await sent(service, a_face(vector=text_of(np.full(512, 3e38))))).status_code == 200
        np.testing.assert_allclose(await service.gallery.vector("people", "new"), 512**-0.5, atol=1e-4)

    async def test_another_recognizer_is_a_conflict(self, service: Served, gallery: LocalGallery) -> None:
        of_other = a_face(model=OTHER_PIN.sha256)
        assert error_of(await sent(service, a_person(), of_other))[:2] == (409, "model_mismatch")
        other = {**COLLECTION, "model": {"name": "o", "sha256": OTHER_PIN.sha256, "embedding_length": 512}}
        answer = await sent(service, {"collection": other}, path="/v1/collections/copy/import")
        assert error_of(answer)[:2] == (409, "model_mismatch")
        await gallery.create_collection("other", OTHER_PIN, {})
        for line in (a_face(), {"collection": COLLECTION}):
            answer = await sent(service, line, path="/v1/collections/other/import")
            assert error_of(answer)[:2] == (409, "model_mismatch")
        assert [each.name for each in await gallery.collections()] == ["other", "people"]

    async def test_of_a_request_that_conflicts_nothing_is_stored(self, service: Served) -> None:
        answer = await sent(service, a_person(), a_face(), {"person": {"id": "ada", "name": "Bob", "metadata": {}}})
        assert error_of(answer)[:2] == (409, "conflict")
        assert answer.json()["error"]["details"] == {"person": "ada"}
        answer = await sent(service, a_person(), a_face(), a_face(vector=text_of(PEOPLE[6, 0])))
        assert answer.json()["error"]["details"] == {"face": "new"}
        found = await service.gallery.collection("people")
        assert (found.num_persons, found.num_faces) == (3, 8)

    async def test_only_plain_lines_are_taken(self, service: Served) -> None:
        """What is compressed, an archive, or JSON as a whole is none."""
        line = orjson.dumps(a_person())
        for headers in (
            {"content-type": "application/json"},
            {"content-type": "application/x-tar"},
            {},
            {**LINES, "content-encoding": "gzip"},
        ):
            answer = await service.client.post(IMPORT, content=line, headers=headers)
            assert error_of(answer)[:2] == (415, "unsupported_media")
        assert error_of(await sent(service, b"PK\x03\x04"))[0] == 422

    async def test_a_request_has_so_many_lines_and_bytes(self, service: Served, gallery: LocalGallery) -> None:
        line = orjson.dumps(a_person())
        assert (await sent(service, *[b""] * 9_999, line)).status_code == 200
        status, _, message = error_of(await sent(service, *[b""] * 10_000, line))
        assert (status, message) == (422, "Too many lines in one request.")
        async with served(gallery, limits=RequestLimits(max_body_bytes=1000)) as small:
            assert error_of(await sent(small, a_face()))[:2] == (413, "body_too_large")

    async def test_metadata_is_no_deeper_than_answers_can_be_written(self, service: Served) -> None:
        """What is stored is listed, found and exported for good: one person too deep would end all of that."""

        def nested(depth: int) -> dict[str, Any]:
            return {"a": nested(depth - 1)} if depth else {}

        for line in (a_person(metadata=nested(64)), {"collection": {**COLLECTION, "metadata": nested(64)}}):
            assert error_of(await sent(service, line))[2].endswith("metadata: nested too deep.")
        assert (await sent(service, a_person(metadata=nested(63)))).status_code == 200
        assert len((await service.client.get("/v1/collections/people/persons")).json()["persons"]) == 4
        assert len(lines_of(await service.client.get(EXPORT))) == 13


class TestLines:
    def test_a_face_and_a_person_are_read(self) -> None:
        person = parse_line(orjson.dumps(a_person(created=1.0)))
        assert person == NewPerson(id="new", name="New", metadata="{}")

    async def test_a_service_that_sends_something_else_is_told(self, tmp_path: Path) -> None:
        async def pieces(*lines: object) -> AsyncIterator[bytes]:
            for line in lines:
                yield orjson.dumps(line) + b"\n"

        for number, wrong in enumerate(
            ([], {"face": {}}, {"face": {"vector": 1}}, {"collection": 1}, {"a": 1, "b": 2})
        ):
            with pytest.raises(RequestError):
                await write_folder(pieces({"collection": COLLECTION}, wrong), tmp_path / str(number))
        with pytest.raises(RequestError):
            await write_folder(pieces(), tmp_path / "nothing")
        with pytest.raises(RequestError):
            await write_folder(pieces(a_person()), tmp_path / "headless")
        assert not (tmp_path / "headless" / "collection.json").exists()

    async def test_a_folder_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        lines = [{"collection": COLLECTION}, a_person(), *(a_face(id=f"f{number}") for number in range(12))]
        lines.append(a_face(id="f12", crop=base64.b64encode(JPEG).decode()))

        async def pieces() -> AsyncIterator[bytes]:
            yield b"".join(orjson.dumps(line) + b"\n" for line in lines)

        assert await write_folder(pieces(), tmp_path / "export") == 13
        assert np.load(tmp_path / "export" / "vectors.npy").shape == (13, 512)
        assert [orjson.loads(line) for line in read_folder(tmp_path / "export")] == lines
        (tmp_path / "export" / "faces.jsonl").write_bytes(b"{}\n")
        with pytest.raises(RequestError, match="one vector for each face"):
            list(read_folder(tmp_path / "export"))

    async def test_vectors_that_are_none_are_told(self, tmp_path: Path) -> None:
        """Files of NumPy and what calls itself one, with headers that lie."""

        async def pieces() -> AsyncIterator[bytes]:
            yield b"".join(orjson.dumps(line) + b"\n" for line in ({"collection": COLLECTION}, a_face(id="f")))

        await write_folder(pieces(), tmp_path / "export")
        file = tmp_path / "export" / "vectors.npy"
        whole, vectors = file.read_bytes(), np.load(file)

        def headed(shape: str) -> bytes:
            return whole.replace(b"(1, 512), ", shape.encode().ljust(10), 1)

        def written(save: Any, *arrays: Any) -> bytes:
            target = io.BytesIO()
            save(target, *arrays)
            return target.getvalue()

        shapes = ("(-1, 512),", "(1, 10**,", "(2**62,9),", "((((((((")
        arrays = (vectors.astype(complex), vectors.astype("U9"), np.array([[{}] * 512], object))
        wrong = [b"", whole[:-1], b"PK", *map(headed, shapes), written(np.savez, vectors)]
        wrong += [written(np.save, array) for array in arrays]
        for content in wrong:
            file.write_bytes(content)
            with pytest.raises(RequestError, match="no whole export"):
                list(read_folder(tmp_path / "export"))
        file.write_bytes(whole)
        (tmp_path / "export" / "crops").mkdir()
        (tmp_path / "export" / "crops" / "0.jpg").symlink_to("/dev/zero")
        with pytest.raises(RequestError, match="too long"):
            list(map(parse_line, read_folder(tmp_path / "export")))
