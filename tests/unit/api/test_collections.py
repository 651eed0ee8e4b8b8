"""`/v1/collections`: what users do with it, and what they do wrong."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import ormsgpack
import pytest
import structlog

from jetface.gallery.local import LocalGallery
from jetface.server.limits import Access
from tests.support.fakes import Harness
from tests.support.gallery_faces import OTHER_PIN
from tests.support.gallery_service import NOBODY, PEOPLE, Served, group, portrait, served

FACES = "/v1/collections/people/persons/ada/faces"
SEARCH = "/v1/collections/people/search"
LINES = {"content-type": "application/x-ndjson"}


@pytest.fixture
async def service(gallery: LocalGallery) -> AsyncIterator[Served]:
    async with served(gallery) as service:
        answer = await service.client.post("/v1/collections", json={"name": "people"})
        assert answer.status_code == 201
        yield service


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def text_of(vector: Any) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/collections", {"name": ""}, "name: 1 to 256 characters."),
        ("/v1/collections/people/persons", {"id": "a/b"}, "id: no slash, and not only dots."),
        (FACES, {"vectors": [text_of(PEOPLE[0, 0])], "ids": ["a\u0007"]}, "ids: no control characters."),
        ("/v1/collections/people/persons", {"id": "\u202egnp.exe"}, "id: no control characters."),
        (FACES, {"vectors": ["?"]}, "vectors.0: not base64."),
    ],
)
async def test_what_is_wrong_is_told_by_its_field(
    service: Served, path: str, body: dict[str, Any], message: str
) -> None:
    answer = await service.client.post(path, json=body)
    assert (answer.status_code, answer.json()["detail"]) == (422, message)


@pytest.mark.parametrize(
    "name",
    [
        "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
        "\u0dc1\u0dca\u200d\u0dbb\u0dd3",
        "\U0001f469\u200d\U0001f680",
        "\U0001fae9",
    ],
)
async def test_names_are_of_any_language(service: Served, name: str) -> None:
    """Persian and Sinhala join and part letters by signs without a width, as emoji do; Unicode grows."""
    persons = "/v1/collections/people/persons"
    assert (await service.client.post(persons, json={"id": name})).json()["name"] == name
    assert (await service.client.get(f"{persons}/{quote(name)}")).json()["id"] == name


class TestCollections:
    async def test_one_is_made_once(self, service: Served) -> None:
        answer = await service.client.post("/v1/collections", json={"name": "people", "metadata": {"x": 1}})
        assert answer.status_code == 200
        assert answer.json()["model"] == {"name": "recognizer", "sha256": "a" * 64, "embedding_length": 512}
        listed = (await service.client.get("/v1/collections")).json()["collections"]
        assert [each["name"] for each in listed] == ["people"]

    async def test_one_is_told_and_deleted(self, service: Served) -> None:
        await service.enrol("ada", portrait(0, 0), portrait(0, 1))
        told = (await service.client.get("/v1/collections/people")).json()
        assert (told["persons"], told["faces"]) == (1, 2)
        assert (await service.client.delete("/v1/collections/people")).status_code == 200
        assert error_of(await service.client.get("/v1/collections/people")) == (404, "not_found")
        assert error_of(await service.enrol("ada", portrait(0, 0))) == (404, "not_found")

    async def test_that_of_another_model_says_how_to_move_it(self, service: Served) -> None:
        await service.enrol("ada", portrait(0, 0))
        service.model = OTHER_PIN
        for answer in (
            await service.enrol("ada", portrait(0, 1)),
            await service.client.post(SEARCH, content=portrait(0, 1), headers={"content-type": "image/jpeg"}),
            await service.client.post(SEARCH, json={"vectors": [PEOPLE[0, 0].tolist()]}),
            await service.client.post("/v1/collections", json={"name": "people"}),
        ):
            assert error_of(answer) == (409, "model_mismatch")
            assert "reembed" in answer.json()["error"]["message"]
            assert answer.json()["error"]["details"]["pinned"]["model"] == "recognizer"
        # What needs no embedding goes on.
        assert (await service.client.get("/v1/collections/people/persons/ada")).status_code == 200

    async def test_without_a_recognizer_there_is_none(self, service: Served) -> None:
        service.model = None
        assert error_of(await service.client.post("/v1/collections", json={"name": "x"})) == (503, "model_unavailable")


class TestPersons:
    async def test_one_is_added_changed_and_deleted(self, service: Served) -> None:
        persons = "/v1/collections/people/persons"
        body = {"id": "ada", "name": "Ada Lovelace", "metadata": {"born": 1815}}
        assert (await service.client.post(persons, json=body)).status_code == 201
        assert (await service.client.post(persons, json=body)).status_code == 200
        assert error_of(await service.client.post(persons, json={**body, "name": "x"})) == (409, "conflict")
        changed = await service.client.patch(f"{persons}/ada", json={"metadata": {"born": 1816}})
        assert changed.json()["name"] == "Ada Lovelace"
        assert changed.json()["metadata"] == {"born": 1816}
        assert (await service.client.get(f"{persons}/ada")).json() == changed.json()
        assert (await service.client.delete(f"{persons}/ada")).status_code == 200
        assert error_of(await service.client.delete(f"{persons}/ada")) == (404, "not_found")

    async def test_an_id_is_made_up_where_there_is_none(self, service: Served) -> None:
        made = (await service.client.post("/v1/collections/people/persons", json={"name": "Ada"})).json()
        assert made["name"] == "Ada"
        assert len(made["id"]) == 36

    async def test_lists_come_in_pages(self, service: Served) -> None:
        for number in range(5):
            await service.enrol(f"p{number}", portrait(number, 0))
        first = (await service.client.get("/v1/collections/people/persons?limit=3")).json()
        rest = (await service.client.get(f"/v1/collections/people/persons?limit=3&after={first['next']}")).json()
        assert [each["id"] for each in first["persons"] + rest["persons"]] == [f"p{number}" for number in range(5)]
        assert rest["next"] is None
        for query in ("limit=0", "limit=1001", "after=x", "limit=a"):
            answer = await service.client.get(f"/v1/collections/people/persons?{query}")
            assert error_of(answer) == (422, "invalid_request"), query

    @pytest.mark.parametrize("person", ["Zoë", "日本太郎", "🙂", "a b", "x" * 256, "%41", "e\u0301"])
    async def test_ids_are_any_words(self, service: Served, person: str) -> None:
        body = {"id": person, "name": person}
        made = (await service.client.post("/v1/collections/people/persons", json=body)).json()
        quoted = httpx.URL(f"/v1/collections/people/persons/{person.replace('%', '%25')}")
        assert (await service.client.get(quoted)).json() == made
        assert (await service.client.delete(quoted)).status_code == 200

    @pytest.mark.parametrize("person", ["", "  ", "a/b", "a\nb", "\x00", "..", "x" * 257, "x" * 10_000, "\u202e"])
    async def test_what_cannot_be_an_id_is_refused(self, service: Served, person: str) -> None:
        bodies = [{"id": person}]
        if person not in {"a/b", ".."}:  # which a name may be
            bodies.append({"id": "ok", "name": person})
        for body in bodies:
            answer = await service.client.post("/v1/collections/people/persons", json=body)
            assert answer.status_code == 422
            assert len(answer.content) < 1000

    async def test_metadata_is_bounded(self, service: Served) -> None:
        persons = "/v1/collections/people/persons"
        deep: dict[str, Any] = {}
        for _ in range(80):
            deep = {"x": deep, "y": "z" * 300}
        for metadata in ({"x": "y" * 20_000}, {"x": ["y" * 600] * 40}, deep):
            answer = await service.client.post(persons, json={"id": "ada", "metadata": metadata})
            assert error_of(answer) == (422, "invalid_request")
        long = {"text": "y" * 16_000, "list": [{"a": None}]}
        answer = await service.client.post(persons, json={"id": "ada", "metadata": long})
        assert answer.json()["metadata"] == long


class TestEnrol:
    async def test_pictures_are_stored_or_refused_alone(self, service: Served) -> None:
        answer = await service.enrol("ada", portrait(0, 0), NOBODY, group((0, 1), (1, 0)), b"", portrait(0, 2))
        assert answer.status_code == 200
        slots = answer.json()["pictures"]
        assert [slot["status"] for slot in slots] == ["ok", "failed", "failed", "failed", "ok"]
        codes = [slot["error"]["code"] for slot in slots if "error" in slot]
        assert codes == ["no_face", "several_faces", "image_decode"]
        assert slots[2]["error"]["details"] == {"faces": 2}
        assert slots[0]["face"]["person"] == "ada"
        assert slots[0]["face"]["quality"] == 0.5
        assert (await service.client.get("/v1/collections/people/persons/ada")).json()["faces"] == 2

    async def test_the_largest_of_several_is_taken_where_that_is_said(self, service: Served) -> None:
        answer = await service.enrol("ada", group((0, 1), (1, 0)), largest=True)
        assert answer.json()["pictures"][0]["status"] == "ok"
        assert await service.search(portrait(0, 0)) == [[["ada"]]]

    async def test_a_poor_face_is_refused(self, service: Served) -> None:
        (slot,) = (await service.enrol("ada", portrait(0, 0), min_quality=0.6)).json()["pictures"]
        assert slot["error"]["code"] == "poor_face"
        assert slot["error"]["details"] == {"quality": 0.5}

    async def test_all_four_bodies_are_taken(self, service: Served) -> None:
        picture = portrait(0, 0)
        text = base64.b64encode(picture).decode()
        for number, sent in enumerate(
            (
                {"json": {"images": {"data": [text]}}},
                {
                    "content": ormsgpack.packb({"images": {"data": [picture]}}),
                    "headers": {"content-type": "application/msgpack"},
                },
                {"files": {"file": picture}},
                {"content": picture, "headers": {"content-type": "image/jpeg"}},
            )
        ):
            answer = await service.client.post(f"/v1/collections/people/persons/p{number}/faces", **sent)  # type: ignore[arg-type]
            assert answer.json()["pictures"][0]["status"] == "ok"

    async def test_a_duplicate_is_told(self, service: Served) -> None:
        await service.enrol("ada", portrait(0, 0))
        same, other, stranger = (await service.enrol("bob", portrait(0, 0), portrait(0, 1), portrait(1, 0))).json()[
            "pictures"
        ]
        assert same["nearest"]["person"] == "ada"
        assert same["nearest"]["is_duplicate"]
        assert other["nearest"]["is_duplicate"] is False
        assert stranger["nearest"] is None
        (again,) = (await service.enrol("bob", portrait(0, 0), skip_duplicates=True)).json()["pictures"]
        assert again["status"] == "skipped"
        assert again["face"] is None

    async def test_duplicates_within_a_request_are_told(self, service: Served) -> None:
        first, second = (await service.enrol("ada", portrait(0, 0), portrait(0, 0))).json()["pictures"]
        assert first["nearest"] is None
        assert second["nearest"]["face"] == first["face"]["id"]
        assert second["nearest"]["is_duplicate"]

    async def test_what_is_sent_again_under_its_id_is_stored_once(self, service: Served) -> None:
        for _ in range(2):
            answer = await service.enrol("ada", portrait(0, 0), portrait(0, 1), ids="one,two")
            assert [slot["face"]["id"] for slot in answer.json()["pictures"]] == ["one", "two"]
        assert (await service.client.get("/v1/collections/people")).json()["faces"] == 2
        (slot,) = (await service.enrol("ada", portrait(5, 0), ids="one")).json()["pictures"]
        assert slot["error"]["code"] == "conflict"
        for ids in ("one", "one,one"):
            assert error_of(await service.enrol("ada", portrait(0, 0), portrait(0, 1), ids=ids))[0] == 422

    async def test_faces_are_listed_and_deleted(self, service: Served) -> None:
        await service.enrol("ada", *(portrait(0, number) for number in range(3)), ids="a,b,c")
        listed = (await service.client.get(f"{FACES}?limit=2")).json()
        assert [face["id"] for face in listed["faces"]] == ["a", "b"]
        assert (await service.client.delete("/v1/collections/people/faces/a")).json() == {"deleted": ["a"]}
        assert error_of(await service.client.delete("/v1/collections/people/faces/a")) == (404, "not_found")
        answer = await service.client.post("/v1/collections/people/faces/delete", json={"ids": ["a", "b", "c"]})
        assert answer.json() == {"deleted": ["b", "c"]}
        assert await service.search(portrait(0, 0)) == [[[]]]
        assert (await service.client.get("/v1/collections/people/persons/ada")).json()["faces"] == 0

    async def test_crops_are_kept_where_that_is_on(self, gallery: LocalGallery) -> None:
        async with served(gallery, keeps_crops=True) as service:
            await service.client.post("/v1/collections", json={"name": "people"})
            await service.enrol("ada", portrait(0, 0), ids="one")
            crop = await service.client.get("/v1/collections/people/faces/one/crop")
            assert crop.content.startswith(b"\xff\xd8")
            assert crop.headers["content-type"] == "image/jpeg"
        async with served(gallery) as service:
            await service.enrol("ada", portrait(0, 1), ids="two")
            assert error_of(await service.client.get("/v1/collections/people/faces/two/crop")) == (404, "not_found")


class TestSearch:
    async def test_every_face_of_a_picture_is_told(self, service: Served) -> None:
        for number in range(6):
            await service.enrol(f"p{number}", portrait(number, 0), portrait(number, 1))
        assert await service.search(group((3, 2), (9, 0), (1, 2)), portrait(4, 3)) == [[["p3"], [], ["p1"]], [["p4"]]]

    async def test_who_is_told_with_margin_and_metadata(self, service: Served) -> None:
        await service.client.post(
            "/v1/collections/people/persons", json={"id": "ada", "name": "Ada", "metadata": {"born": 1815}}
        )
        await service.enrol("ada", portrait(0, 0), ids="f")
        await service.enrol("bob", portrait(1, 0))
        answer = await service.client.post(
            SEARCH, files={"file": portrait(0, 1)}, data={"top_k": "2", "threshold": "-1"}
        )
        (face,) = answer.json()["pictures"][0]["faces"]
        first, second = face["matches"]
        assert first["person"] == {"id": "ada", "name": "Ada", "metadata": {"born": 1815}}
        assert first["face"] == "f"
        assert first["similarity"] == pytest.approx(float(PEOPLE[0, 0] @ PEOPLE[0, 1]), abs=1e-3)
        assert face["margin"] == pytest.approx(first["similarity"] - second["similarity"], abs=1e-5)
        assert len(face["box"]) == 4

    async def test_the_next_person_counts_below_the_threshold_too(self, service: Served) -> None:
        await service.enrol("ada", portrait(0, 0))
        answer = await service.client.post(SEARCH, files={"file": portrait(0, 1)})
        assert answer.json()["pictures"][0]["faces"][0]["margin"] is None
        await service.enrol("bob", portrait(1, 0))
        answer = await service.client.post(SEARCH, files={"file": portrait(0, 1)})
        (face,) = answer.json()["pictures"][0]["faces"]
        assert len(face["matches"]) == 1
        expected = float(PEOPLE[0, 0] @ PEOPLE[0, 1] - PEOPLE[1, 0] @ PEOPLE[0, 1])
        assert face["margin"] == pytest.approx(expected, abs=2e-3)

    async def test_one_person_or_none_is_identified(self, service: Served) -> None:
        for number in range(3):
            await service.enrol(f"p{number}", portrait(number, 0))
        answer = await service.client.post("/v1/collections/people/identify", files={"file": group((1, 2), (7, 0))})
        known, unknown = answer.json()["pictures"][0]["faces"]
        assert known["person"]["id"] == "p1"
        assert known["margin"] > 0
        assert unknown["person"] is None
        assert unknown["similarity"] is None

    async def test_vectors_are_searched_and_enrolled_as_pictures_are(self, service: Served) -> None:
        body = {"vectors": [text_of(PEOPLE[0, 0]), (3 * PEOPLE[0, 1]).tolist()], "ids": ["a", "b"]}
        answer = await service.client.post(FACES, json=body)
        assert [slot["face"]["id"] for slot in answer.json()["pictures"]] == ["a", "b"]
        for vector in (PEOPLE[0, 2].tolist(), text_of(5 * PEOPLE[0, 2])):
            answer = await service.client.post(SEARCH, json={"vectors": [vector]})
            assert answer.json()["vectors"][0]["matches"][0]["person"]["id"] == "ada"

    async def test_what_cannot_be_read_fails_alone(self, service: Served) -> None:
        await service.enrol("ada", portrait(0, 0))
        answer = await service.client.post(SEARCH, files=[("file", b""), ("file", portrait(0, 1))])
        failed, found = answer.json()["pictures"]
        assert (failed["status"], failed["faces"]) == ("failed", [])
        assert found["faces"][0]["matches"][0]["person"]["id"] == "ada"

    async def test_an_empty_collection_finds_nobody(self, service: Served) -> None:
        assert await service.search(portrait(0, 0), group((1, 0), (2, 0))) == [[[]], [[], []]]


class TestBadInput:
    @pytest.mark.parametrize(
        "vector",
        [
            [], [1.0], [0.0] * 512, [1.0] * 511, [1e300] * 512, "!!!", "AAA=", text_of([np.nan] * 512),
            text_of([np.inf] * 512), text_of([1.0] * 128), ["x"] * 512, None, {"a": 1},
        ],
    )  # fmt: skip
    async def test_what_is_no_vector_is_refused(self, service: Served, vector: Any) -> None:
        for path in (SEARCH, "/v1/collections/people/identify", FACES):
            answer = await service.client.post(path, json={"vectors": [PEOPLE[0, 0].tolist(), vector]})
            assert error_of(answer) == (422, "invalid_request")
            assert len(answer.content) < 2000
        assert (await service.client.get("/v1/collections/people")).json()["faces"] == 0

    @pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
    async def test_a_literal_that_is_no_number_is_refused(self, service: Served, literal: str) -> None:
        body = '{"vectors": [[' + ",".join([literal] * 512) + "]]}"
        answer = await service.client.post(SEARCH, content=body, headers={"content-type": "application/json"})
        assert error_of(answer) == (422, "invalid_request")

    @pytest.mark.parametrize(
        "body",
        [
            {}, {"images": {}}, {"vectors": []}, {"vectors": "x"}, {"images": {"data": []}},
            {"images": {"data": ["aa"]}, "vectors": [[1.0]]},
        ],
    )  # fmt: skip
    async def test_one_of_pictures_and_vectors_is_wanted(self, service: Served, body: Any) -> None:
        assert error_of(await service.client.post(SEARCH, json=body)) == (422, "invalid_request")
        assert error_of(await service.client.post(FACES, json=body)) == (422, "invalid_request")

    @pytest.mark.parametrize(
        "options", [{"top_k": 0}, {"top_k": 101}, {"threshold": 1.5}, {"threshold": "x"}, {"detection_threshold": 2}]
    )
    async def test_what_is_out_of_range_is_refused(self, service: Served, options: dict[str, Any]) -> None:
        answer = await service.client.post(SEARCH, files={"file": portrait(0, 0)}, data=options)
        assert error_of(answer) == (422, "invalid_request")

    async def test_100_000_vectors_in_one_request_are_refused_cheaply(self, service: Served) -> None:
        body = b'{"vectors": [' + b",".join([b'"' + b"A" * 16 + b'"'] * 100_000) + b"]}"
        answer = await service.client.post(FACES, content=body, headers={"content-type": "application/json"})
        assert error_of(answer) == (422, "invalid_request")

    async def test_1024_vectors_are_taken(self, service: Served) -> None:
        vectors = [text_of(PEOPLE[number % 12, number % 4]) for number in range(1025)]
        assert (await service.client.post(FACES, json={"vectors": vectors[:1024]})).status_code == 200
        assert (await service.client.get("/v1/collections/people")).json()["faces"] == 1024
        assert error_of(await service.client.post(FACES, json={"vectors": vectors})) == (422, "invalid_request")

    async def test_many_enrolments_at_once_are_stored_or_refused_for_now(self, service: Served) -> None:
        """The door bounds what waits; nothing that was answered 200 is missing, nothing else is there."""
        answers = await asyncio.gather(
            *(service.enrol(f"p{number}", portrait(number % 12, number % 4)) for number in range(500))
        )
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) <= {200, 429}
        assert (await service.client.get("/v1/collections/people")).json()["faces"] == statuses.count(200) >= 32

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/v1/collections/none"), ("DELETE", "/v1/collections/none"),
            ("GET", "/v1/collections/none/persons"),
            ("GET", "/v1/collections/people/persons/none"), ("GET", "/v1/collections/people/persons/none/faces"),
            ("GET", "/v1/collections/people/faces/none/crop"), ("DELETE", "/v1/collections/people/faces/none"),
        ],
    )  # fmt: skip
    async def test_what_is_not_there_is_told(self, service: Served, method: str, path: str) -> None:
        assert error_of(await service.client.request(method, path)) == (404, "not_found")

    @pytest.mark.parametrize("content_type", ["text/plain", "", "multipart/form-data; boundary=x", "image/jpeg"])
    async def test_other_bodies_than_json_and_msgpack_are_refused(self, service: Served, content_type: str) -> None:
        answer = await service.client.post("/v1/collections", content=b"{}", headers={"content-type": content_type})
        assert error_of(answer) == (415, "unsupported_media")

    @pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b'{"name": 1}', b'{"name": null}', b"\xff"])
    async def test_what_is_no_collection_is_refused(self, service: Served, body: bytes) -> None:
        answer = await service.client.post(
            "/v1/collections", content=body, headers={"content-type": "application/json"}
        )
        assert error_of(answer) == (422, "invalid_request")

    async def test_msgpack_goes_both_ways(self, service: Served) -> None:
        headers = {"content-type": "application/msgpack", "accept": "application/msgpack"}
        answer = await service.client.post("/v1/collections", content=ormsgpack.packb({"name": "x"}), headers=headers)
        assert ormsgpack.unpackb(answer.content)["name"] == "x"


class TestAccess:
    async def test_without_a_gallery_it_is_off(self) -> None:
        async with Harness().client() as client:
            for answer in (await client.get("/v1/collections"), await client.post(SEARCH, files={"file": b"x"})):
                assert error_of(answer) == (404, "not_found")
                assert "GALLERY_DIR" in answer.json()["error"]["message"]

    async def test_a_key_that_may_only_read_changes_nothing(self, gallery: LocalGallery) -> None:
        access = Access(api_keys=("writer",), read_api_keys=("reader",))
        async with served(gallery, access=access) as service:
            service.client.headers["x-api-key"] = "writer"
            await service.client.post("/v1/collections", json={"name": "people"})
            await service.enrol("ada", portrait(0, 0), ids="one")
            service.client.headers["x-api-key"] = "reader"
            assert await service.search(portrait(0, 1)) == [[["ada"]]]
            assert (await service.client.get("/v1/collections/people/persons")).status_code == 200
            person = "/v1/collections/people/persons/ada"
            for answer in (
                await service.enrol("ada", portrait(0, 1)),
                await service.client.post("/v1/collections", json={"name": "x"}),
                await service.client.post("/v1/collections/people/persons", json={"name": "x"}),
                await service.client.patch(person, json={"name": "x"}),
                await service.client.delete(person),
                await service.client.delete("/v1/collections/people/faces/one"),
                await service.client.post("/v1/collections/people/faces/delete", json={"ids": ["one"]}),
                await service.client.delete("/v1/collections/people"),
                await service.client.get("/v1/collections/people/export"),
                await service.client.post("/v1/collections/people/import", content=b"", headers=LINES),
                await service.client.post("/models/det_500m/unload"),
            ):
                assert error_of(answer) == (403, "forbidden")
            service.client.headers["x-api-key"] = "nobody"
            assert error_of(await service.client.get("/v1/collections")) == (401, "unauthorized")

    async def test_who_did_what_is_logged_without_vectors(self, service: Served) -> None:
        with structlog.testing.capture_logs() as logs:
            await service.enrol("ada", portrait(0, 0))
            await service.search(portrait(0, 1))
            await service.client.delete("/v1/collections/people/persons/ada")
        audited = [line for line in logs if line["event"] == "gallery"]
        assert [line["action"] for line in audited] == ["enrol", "search", "delete person"]
        assert audited[0]["person"] == "ada"
        assert audited[1]["found"] == 1
        assert all(len(str(line)) < 300 for line in audited)

    async def test_changes_are_counted(self, service: Served) -> None:
        await service.enrol("ada", portrait(0, 0), NOBODY)
        await service.client.delete("/v1/collections/people/persons/ada")
        shown = (await service.client.get("/metrics")).text
        for change, count in (("stored", 1), ("refused", 1), ("persons_deleted", 1), ("faces_deleted", 1)):
            assert f'jetface_gallery_changes_total{{change="{change}"}} {count}.0' in shown

    async def test_a_change_is_refused_while_it_drains_and_a_list_is_not(self, service: Served) -> None:
        service.harness.drain.begin(lambda: None, "a test")
        assert error_of(await service.client.delete("/v1/collections/people")) == (503, "shutting_down")
        assert (await service.client.get("/v1/collections/people")).status_code == 200

    async def test_a_deadline_holds(self, service: Served) -> None:
        service.harness.extractor.delay_s = 60
        answer = await service.client.post(
            FACES, files={"file": portrait(0, 0)}, headers={"x-request-timeout-ms": "100"}
        )
        assert error_of(answer) == (504, "deadline_exceeded")
