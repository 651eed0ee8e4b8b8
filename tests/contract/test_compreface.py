"""What CompreFace's clients send and read, from the description of its REST API 1.x."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jetface.api.compreface import similarity_of
from jetface.gallery.local import LocalGallery
from jetface.server.limits import Access
from tests.support.fakes import Harness
from tests.support.gallery_service import MATCH_THRESHOLD, NOBODY, Served, group, opened_gallery, portrait, served

FACES = "/api/v1/recognition/faces"
SUBJECTS = "/api/v1/recognition/subjects"
RECOGNIZE = "/api/v1/recognition/recognize"


@pytest.fixture
async def gallery(tmp_path: Path) -> AsyncIterator[LocalGallery]:
    async with opened_gallery(tmp_path / "gallery") as opened:
        yield opened


@pytest.fixture
async def service(gallery: LocalGallery) -> AsyncIterator[Served]:
    async with served(gallery, keeps_crops=True) as service:
        yield service


async def add(service: Served, subject: str, picture: bytes) -> str:
    answer = await service.client.post(FACES, params={"subject": subject}, files={"file": ("a.jpg", picture)})
    assert answer.status_code == 201, answer.text
    assert answer.json()["subject"] == subject
    return str(uuid.UUID(answer.json()["image_id"]))


async def test_subjects(service: Served) -> None:
    """Added, listed, renamed, merged, deleted."""
    for subject in ("Ada", "Bob"):
        assert (await service.client.post(SUBJECTS, json={"subject": subject})).json() == {"subject": subject}
    assert (await service.client.get(f"{SUBJECTS}/")).json() == {"subjects": ["Ada", "Bob"]}
    assert (await service.client.put(f"{SUBJECTS}/Bob", json={"subject": "Rob"})).json() == {"updated": True}
    await add(service, "Rob", portrait(1, 0))
    await service.client.put(f"{SUBJECTS}/Rob", json={"subject": "Ada"})
    assert (await service.client.get(SUBJECTS)).json() == {"subjects": ["Ada"]}
    assert (await service.client.get(FACES, params={"subject": "Ada"})).json()["total_elements"] == 1
    assert (await service.client.delete(f"{SUBJECTS}/Ada")).json() == {"subject": "Ada"}
    assert (await service.client.delete(f"{SUBJECTS}/Ada")).status_code == 404
    await add(service, "Zoë", portrait(2, 0))
    assert (await service.client.delete(SUBJECTS)).json() == {"deleted": 1}


async def test_faces_are_listed_in_numbered_pages(service: Served) -> None:
    images = [await add(service, f"p{number % 2}", portrait(number, 0)) for number in range(5)]
    answer = (await service.client.get(FACES, params={"page": 1, "size": 2})).json()
    assert answer == {
        "faces": [{"image_id": images[2], "subject": "p0"}, {"image_id": images[3], "subject": "p1"}],
        "page_number": 1,
        "page_size": 2,
        "total_pages": 3,
        "total_elements": 5,
    }
    first = (await service.client.get(FACES)).json()
    assert [face["image_id"] for face in first["faces"]] == images
    of_one = (await service.client.get(FACES, params={"subject": "p1"})).json()
    assert [face["image_id"] for face in of_one["faces"]] == [images[1], images[3]]
    assert (await service.client.get(FACES, params={"page": 9})).json()["faces"] == []


async def test_faces_are_deleted_one_several_or_all(service: Served) -> None:
    images = [await add(service, f"p{number % 2}", portrait(number, 0)) for number in range(6)]
    deleted = await service.client.delete(f"{FACES}/{images[0]}")
    assert deleted.json() == {"image_id": images[0], "subject": "p0"}
    assert (await service.client.delete(f"{FACES}/{images[0]}")).status_code == 404
    answer = await service.client.post(f"{FACES}/delete", json=[images[1], "unknown"])
    assert answer.json() == [{"image_id": images[1], "subject": "p1"}]
    assert (await service.client.delete(FACES, params={"subject": "p0"})).json() == {"deleted": 2}
    assert (await service.client.delete(FACES)).json() == {"deleted": 2}
    assert (await service.client.get(SUBJECTS)).json() == {"subjects": ["p0", "p1"]}


async def test_a_picture_is_shown_where_it_was_kept(service: Served) -> None:
    image = await add(service, "Ada", portrait(0, 0))
    for path in (f"{FACES}/{image}/img", f"/api/v1/static/key/images/{image}"):
        shown = await service.client.get(path)
        assert shown.content.startswith(b"\xff\xd8")
        assert shown.headers["content-type"] == "image/jpeg"


async def test_every_face_is_recognized(service: Served) -> None:
    for number in range(3):
        await add(service, f"p{number}", portrait(number, 0))
    answer = await service.client.post(
        RECOGNIZE,
        params={"prediction_count": 2, "limit": 0, "det_prob_threshold": 0.5, "face_plugins": "landmarks,gender,age"},
        files={"file": ("a.jpg", group((2, 1), (9, 0)))},
    )
    known, stranger = answer.json()["result"]
    assert known["box"] == {"probability": 0.7986, "x_min": 87, "y_min": 32, "x_max": 145, "y_max": 111}
    assert known["subjects"][0]["subject"] == "p2"
    assert len(known["subjects"]) == 2
    assert known["subjects"][0]["similarity"] > 0.98 > known["subjects"][1]["similarity"]
    assert max(subject["similarity"] for subject in stranger["subjects"]) < 0.98
    assert len(known["landmarks"]) == 5
    assert known["gender"]["value"] == "female"
    assert known["age"]["low"] == known["age"]["high"] == 31
    assert "embedding" not in known
    assert "plugins_versions" not in answer.json()


async def test_pictures_come_as_base64_too(service: Served) -> None:
    body = {"file": base64.b64encode(portrait(0, 0) + b" " * 200_000).decode()}
    answer = await service.client.post(FACES, params={"subject": "Ada"}, json=body)
    assert answer.status_code == 201
    answer = await service.client.post(RECOGNIZE, params={"status": "true"}, json=body)
    (face,) = answer.json()["result"]
    assert face["subjects"] == [{"subject": "Ada", "similarity": face["subjects"][0]["similarity"]}]
    assert set(face["execution_time"]) == {"detector", "calculator"}
    assert answer.json()["plugins_versions"] == {"detector": "det_500m", "calculator": "w600k_mbf"}


async def test_a_face_is_verified(service: Served) -> None:
    image = await add(service, "Ada", portrait(0, 0))
    answer = await service.client.post(f"{FACES}/{image}/verify", files={"file": ("a.jpg", group((0, 1), (1, 0)))})
    same, other = answer.json()["result"]
    assert same["similarity"] > 0.98 > other["similarity"]
    unknown = await service.client.post(f"{FACES}/none/verify", files={"file": ("a.jpg", portrait(0, 0))})
    assert unknown.status_code == 404


async def test_two_pictures_are_verified_and_faces_detected_without_a_gallery() -> None:
    harness = Harness()
    async with harness.client() as client:
        files = {"source_image": ("a.jpg", b"x"), "target_image": ("b.jpg", b"y")}
        (answer,) = (await client.post("/api/v1/verification/verify", files=files)).json()["result"]
        assert [match["similarity"] > 0.98 for match in answer["face_matches"]] == [True, False]
        assert set(answer["source_image_face"]) == {"box"}
        texts = {name: base64.b64encode(data).decode() for name, (_, data) in files.items()}
        (again,) = (await client.post("/api/v1/verification/verify", json=texts)).json()["result"]
        assert again == answer
        found = await client.post(
            "/api/v1/detection/detect", params={"face_plugins": "calculator,mask,pose"}, files={"file": ("a.jpg", b"x")}
        )
        first, _ = found.json()["result"]
        assert len(first["embedding"]) == 512
        assert first["mask"] == {"probability": 0.75, "value": "with_mask"}
        assert first["pose"] == {"pitch": 4.25, "roll": 1.5, "yaw": -8.5}
        off = await client.post(RECOGNIZE, files={"file": ("a.jpg", b"x")})
        assert off.status_code == 404
        assert "GALLERY_DIR" in off.json()["message"]


async def test_errors_have_its_shape(service: Served) -> None:
    nobody = await service.client.post(RECOGNIZE, files={"file": ("a.jpg", NOBODY)})
    assert nobody.status_code == 400
    assert nobody.json() == {"message": "No face is found in the given image", "code": 28}
    several = await service.client.post(
        FACES, params={"subject": "Ada"}, files={"file": ("a.jpg", group((0, 0), (1, 0)))}
    )
    assert several.status_code == 400
    assert "2 faces" in several.json()["message"]
    for answer in (
        await service.client.post(FACES, files={"file": ("a.jpg", portrait(0, 0))}),
        await service.client.post(FACES, params={"subject": "a/b"}, files={"file": ("a.jpg", portrait(0, 0))}),
        await service.client.post(SUBJECTS, json={"subject": ""}),
        await service.client.post(RECOGNIZE, files={"file": ("a.jpg", b"")}),
        await service.client.post(RECOGNIZE, params={"prediction_count": 0}, files={"file": ("a.jpg", portrait(0, 0))}),
        await service.client.post("/api/v1/verification/verify", files={"source_image": ("a.jpg", portrait(0, 0))}),
        await service.client.post(f"{FACES}/delete", json={"x": 1}),
    ):
        assert answer.status_code == 400
        assert set(answer.json()) == {"message", "code"}


async def test_keys_come_in_its_header_and_in_the_path_of_a_picture(gallery: LocalGallery) -> None:
    access = Access(api_keys=("00000000-0000-0000-0000-000000000002",), read_api_keys=("reader",))
    async with served(gallery, access=access, keeps_crops=True) as service:
        assert (await service.client.get(SUBJECTS)).status_code == 401
        service.client.headers["x-api-key"] = "00000000-0000-0000-0000-000000000002"
        image = await add(service, "Ada", portrait(0, 0))
        service.client.headers["x-api-key"] = "reader"
        assert (await service.client.get(SUBJECTS)).json() == {"subjects": ["Ada"]}
        assert (await service.client.delete(SUBJECTS)).status_code == 403
        del service.client.headers["x-api-key"]
        assert (await service.client.get(f"/api/v1/static/reader/images/{image}")).status_code == 200
        assert (await service.client.get(f"/api/v1/static/nobody/images/{image}")).status_code == 401


async def test_a_key_that_may_only_read_makes_no_collection(gallery: LocalGallery) -> None:
    """Before anybody was enrolled there is nobody: that is no error, and nothing is stored for asking."""
    access = Access(api_keys=("writer",), read_api_keys=("reader",))
    async with served(gallery, access=access) as service:
        service.client.headers["x-api-key"] = "reader"
        assert (await service.client.get(SUBJECTS)).json() == {"subjects": []}
        listed = (await service.client.get(FACES)).json()
        assert (listed["faces"], listed["total_elements"]) == ([], 0)
        answer = await service.client.post(RECOGNIZE, files={"file": ("a.jpg", portrait(0, 0))})
        assert [face["subjects"] for face in answer.json()["result"]] == [[]]
        assert (await service.client.get(f"{FACES}/x/img")).status_code == 404
        verified = await service.client.post(f"{FACES}/x/verify", files={"file": ("a.jpg", portrait(0, 0))})
        assert verified.status_code == 404
        assert await gallery.collections() == []


def test_similarity_is_monotonic_and_has_the_threshold_where_it_is_advised() -> None:
    for threshold in (0.2, 0.3, MATCH_THRESHOLD):
        values = [similarity_of(cosine / 100, threshold) for cosine in range(-100, 101)]
        assert values == sorted(values)
        assert 0 < values[0] < values[-1] <= 1
        assert similarity_of(threshold, threshold) == pytest.approx(0.98)
        assert similarity_of(0, threshold) == 0.5


async def test_collections_of_both_interfaces_are_one(service: Served) -> None:
    await add(service, "Ada", portrait(0, 0))
    assert await service.search(portrait(0, 1), collection="compreface") == [[["Ada"]]]
    (told,) = (await service.client.get("/v1/collections")).json()["collections"]
    assert told["name"] == "compreface"
