"""What is sent is taken or told of: no picture is dropped, no field overwritten, no option missed in silence."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Sequence

import httpx
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from jetface.api.requests import RequestLimits
from jetface.imaging.sources import EncodedPicture
from jetface.server.limits import Access
from tests.support.asgi import RawRequest
from tests.support.fakes import Harness, jpeg_of
from tests.support.fuzzing import fuzz

FORM = {"content-type": "multipart/form-data; boundary=b"}
JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}
JPEG = {"content-type": "image/jpeg"}
PICTURE = jpeg_of()


def form_of(parts: Sequence[tuple[str, bytes]]) -> bytes:
    """Write parts, each of what follows `form-data` and its content."""
    lines = (b"--b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (head.encode(), body) for head, body in parts)
    return b"".join(lines) + b"--b--\r\n"


def pictures_of(harness: Harness) -> Iterator[bytes]:
    for source in harness.extractor.sources:
        assert isinstance(source, EncodedPicture)
        yield source.data


NAMES = ["file", "files", "image", "images", "file[]", "files[0]", "images[12]", "image[]"]


@pytest.mark.parametrize("has_file_name", [True, False])
@pytest.mark.parametrize("size", [3, 400_000])
async def test_files_have_the_names_of_other_services_and_keep_their_order(
    client: httpx.AsyncClient, harness: Harness, size: int, has_file_name: bool
) -> None:
    contents = [name.encode() + b"\r\n--" + bytes(size) for name in NAMES]
    said = "; filename=x" if has_file_name else ""
    body = form_of([(f'name="{name}"{said}', content) for name, content in zip(NAMES, contents, strict=True)])
    assert (await client.post("/extract", content=body, headers=FORM)).status_code == 200
    assert list(pictures_of(harness)) == contents


@pytest.mark.parametrize(
    "name", ["file2", "picture", "file[a]", "files[1][2]", "myfile", "other", "threshold", "FILE", "x\r<y>"]
)
async def test_a_file_of_any_other_name_is_refused_by_it(
    client: httpx.AsyncClient, harness: Harness, name: str
) -> None:
    body = form_of([("name=file; filename=a", PICTURE), (f'name="{name}"; filename=a', PICTURE)])
    answer = await client.post("/extract", content=body.replace(b"x\r<", b"x<"), headers=FORM)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(name.replace("\r<", "").replace(">", ""))
    assert not harness.extractor.sources


async def test_others_of_compare_have_both_names(client: httpx.AsyncClient, harness: Harness) -> None:
    names = ["other", "image", "others[]", "other[1]"]
    body = form_of([(f"name={name}; filename=a", name.encode()) for name in names])
    assert (await client.post("/compare", content=body, headers=FORM)).status_code == 200
    assert list(pictures_of(harness)) == [b"image", b"other", b"others[]", b"other[1]"]


@pytest.mark.parametrize("offset", range(-8, 5))
async def test_a_boundary_may_be_anywhere_in_a_large_form(
    client: httpx.AsyncClient, harness: Harness, offset: int
) -> None:
    """Across the end of the first megabyte, too, which is searched by itself."""
    head = "name=file; filename=a"
    size = 2**20 + offset - form_of([(head, b"")]).index(b"\r\n--b--")
    contents = [bytes(size), b"x" * 2**20, b"\r\n--"]
    answer = await client.post("/extract", content=form_of([(head, content) for content in contents]), headers=FORM)
    assert answer.status_code == 200
    assert list(pictures_of(harness)) == contents


@pytest.mark.parametrize("size", [10, 300_000])
async def test_a_form_may_have_text_around_it_and_blanks_behind_its_boundaries(
    client: httpx.AsyncClient, harness: Harness, size: int
) -> None:
    part = b"--b \t\r\nX-A: b\r\ncontent-DISPOSITION:form-data;name=file;filename=a\r\n\r\n" + bytes(size)
    body = b"before\r\n" + part + b"\r\n" + part + b"\r\n--b-- \r\nbehind --b\r\n--b"
    assert (await client.post("/extract", content=body, headers=FORM)).status_code == 200
    assert list(pictures_of(harness)) == [bytes(size)] * 2


@pytest.mark.parametrize(
    "body",
    [
        b"--bx\r\nContent-Disposition: form-data; name=file\r\n\r\nx\r\n--b--",
        b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\nx\r\n--bx\r\n--b--",
        b"--b\r\nContent-Disposition: form-data; name=file\r\nx\r\n--b--",
        b"--b\r\nContent-Type: image/jpeg\r\n\r\nx\r\n--b--",
        b"--b--",
    ],
)
async def test_a_broken_form_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.post("/extract", content=body, headers=FORM)).status_code == 422


ODD = {"end": b"\r\n", "half": b"\r\n--", "b": b"--b", "many": b"\r\n--a" * 3000 + bytes(300_000)}


@fuzz(100)
@given(kinds=st.lists(st.binary(max_size=30) | st.sampled_from(sorted(ODD)), min_size=1, max_size=4))
async def test_any_bytes_come_through_a_form(
    harness: Harness, client: httpx.AsyncClient, kinds: list[bytes | str]
) -> None:
    contents = [ODD[kind] if isinstance(kind, str) else kind for kind in kinds]
    harness.extractor.sources.clear()
    files = [("file", ("a", content)) for content in contents]
    assert (await client.post("/extract", files=files)).status_code == 200
    assert list(pictures_of(harness)) == contents


async def test_fields_that_come_twice_are_joined(client: httpx.AsyncClient, harness: Harness) -> None:
    answer = await client.post("/detect?fields=box&fields=score", content=PICTURE, headers=JPEG)
    assert answer.json()["pictures"][0]["faces"][0].keys() == {"box", "score"}
    form = {"fields": ["box", "landmarks,score"]}
    answer = await client.post("/detect", files={"file": PICTURE}, data=form)
    assert answer.json()["pictures"][0]["faces"][0].keys() == {"box", "landmarks", "score"}
    answer = await client.post("/detect?fields=box", files={"file": PICTURE}, data={"fields": "score"})
    assert answer.json()["pictures"][0]["faces"][0].keys() == {"box", "score"}
    boxes = ["[[[1,2,3,4]]]", "[[[5,6,7,8],[1,2,3,4]]]"]
    answer = await client.post("/recognize", files=[("file", PICTURE), ("file", PICTURE)], data={"boxes": boxes})
    assert answer.status_code == 200, answer.text
    assert [faces.boxes.shape for faces in harness.extractor.known if faces.boxes is not None] == [(1, 4), (2, 4)]


@pytest.mark.parametrize("query", ["threshold=0.5&threshold=0.6", "msgpack=1&msgpack=0", "limit_faces=1&limit_faces=2"])
async def test_two_values_where_one_is_meant_are_refused(client: httpx.AsyncClient, query: str) -> None:
    name = query.partition("=")[0]
    answers = [
        await client.post(f"/extract?{query}", content=PICTURE, headers=JPEG),
        await client.post("/extract", files={"file": PICTURE}, data={name: ["0.5", "0.6"]}),
    ]
    for answer in answers:
        assert answer.status_code == 422
        assert answer.json()["error"]["message"].startswith(name)


@pytest.mark.parametrize(
    "head",
    [
        "name=file2; filename*=UTF-8''x.jpg",
        "name=file2\r\nContent-Type: image/jpeg",
        "name=file2\r\nContent-Type: application/octet-stream",
        "name=file2",
    ],
    ids=["other-spelling", "picture-type", "bytes-type", "its-bytes-alone"],
)
async def test_a_picture_without_a_file_name_is_refused_under_another_name_too(
    client: httpx.AsyncClient, head: str
) -> None:
    body = form_of([(head, PICTURE), ("name=file", PICTURE)])
    answer = await client.post("/detect", content=body, headers=FORM)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("file2: no file is taken under this name")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("thresh", "threshold"), ("Threshold", "threshold"), ("limitFaces", "limit_faces"),
     ("min-face-size", "min_face_size"), ("det_threshold", "threshold"), ("return_landmark", "return_landmarks"),
     ("embedonly", "embed_only"), ("thres", "threshold"), ("limit", "limit_faces"), ("det_thresh", "threshold"),
     ("limit_faces[]", "limit_faces"), ("fields[0]", "fields"), ("limit.faces", "limit_faces")],
)  # fmt: skip
async def test_an_option_that_looks_misspelt_is_told(
    client: httpx.AsyncClient, harness: Harness, given: str, meant: str
) -> None:
    fields = {"images": {"data": [""]}, given: 1}
    before = harness.metrics.registry.get_sample_value("jetface_ignored_total", {"what": "field"}) or 0
    answers = [
        await client.post("/extract", json=fields),
        await client.post("/extract", content=ormsgpack.packb(fields), headers=MSGPACK),
        await client.post("/extract", files={"file": PICTURE}, data={given: "1"}),
        await client.post(f"/extract?{given}=1", content=PICTURE, headers=JPEG),
        await client.post(f"/extract?{given}=1", content=PICTURE, headers=JPEG),
    ]
    assert [answer.headers["x-ignored"] for answer in answers] == [f"{given};like={meant}"] * 5
    counted = harness.metrics.registry.get_sample_value("jetface_ignored_total", {"what": "field"})
    assert counted == before + 5


@pytest.mark.parametrize(("given", "meant"), [("bbox", "boxes"), ("kps", "landmarks"), ("keypoints", "landmarks")])
async def test_names_that_insightface_has_for_faces_are_told(client: httpx.AsyncClient, given: str, meant: str) -> None:
    """Else the picture would be taken for a crop, and nothing said."""
    answer = await client.post("/recognize", json={"images": {"data": [""]}, given: [[[1, 2, 3, 4]]]})
    assert answer.headers["x-ignored"] == f"{given};like={meant}"


async def test_the_misspelling_is_told_beside_the_error(client: httpx.AsyncClient) -> None:
    answer = await client.post("/extract", json={"image": {"data": []}, "thresh": 1})
    assert answer.status_code == 422
    assert answer.headers["x-ignored"] == "image;like=images, thresh;like=threshold"


@pytest.mark.parametrize("name", ["camera", "use_rotation", "x" * 100, "t\r\nhreshold", "schwelle\u00fc", "", "a"])
async def test_what_looks_like_no_option_is_ignored(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.post("/extract", json={"images": {"data": [""]}, name: 1})
    assert answer.status_code == 200
    assert "x-ignored" not in answer.headers


async def test_bytes_behind_a_message_are_told(client: httpx.AsyncClient, harness: Harness) -> None:
    message = ormsgpack.packb({"images": {"data": [b"x"]}})
    for behind in (b"\xc0", message, b"\xc1\xff\xff"):
        answer = await client.post("/extract", content=message + behind, headers=MSGPACK)
        assert answer.status_code == 200
        assert answer.headers["x-ignored"] == f"trailing;bytes={len(behind)}"
        assert len(harness.extractor.sources) == 1
    assert b'jetface_ignored_total{what="trailing"} 3.0' in generate_latest(harness.metrics.registry)


async def test_bytes_behind_json_are_refused(client: httpx.AsyncClient) -> None:
    body = json.dumps({"images": {"data": [""]}}).encode()
    for behind in (b"x", body, b"\0"):
        assert (await client.post("/extract", content=body + behind, headers=JSON)).status_code == 422


async def test_every_answer_says_that_its_type_is_meant() -> None:
    access = Access(api_keys=("key",), cors_origins=("https://a.example",))
    async with Harness(access=access).client() as client:
        preflight = {"origin": "https://a.example", "access-control-request-method": "POST"}
        for method, path, headers in [
            ("GET", "/", {}), ("GET", "/docs", {}), ("GET", "/redoc", {}), ("GET", "/openapi.json", {}),
            ("GET", "/static-offline-docs/swagger-ui.css", {}), ("GET", "/health/live", {}), ("HEAD", "/health", {}),
            ("GET", "/metrics", {}), ("GET", "/none", {"x-api-key": "key"}), ("POST", "/extract", {"x-api-key": "key"}),
            ("OPTIONS", "/extract", preflight), ("OPTIONS", "/extract", {**preflight, "origin": "https://b.example"}),
            ("GET", "/metrics", {"x-api-key": "key", "origin": "https://a.example"}),
        ]:  # fmt: skip
            answer = await client.request(method, path, headers=headers)
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"], path


@pytest.mark.parametrize("blanks", ["", " ", "\t", "   "])
async def test_blanks_around_a_key_do_not_matter(blanks: str) -> None:
    async with Harness(access=Access(api_keys=(" key\t", "other"))).client() as client:
        for header, value in (("x-api-key", "key"), ("x-api-key", "other"), ("authorization", f"Bearer {blanks}key")):
            headers = {header: f"{value}{blanks}"}
            assert (await client.get("/info", headers=headers)).status_code == 200
        for wrong in ("k ey", "", blanks):
            assert (await client.get("/info", headers={"x-api-key": f"{blanks}{wrong}{blanks}"})).status_code == 401


class TestBudget:
    """Bodies over 256 KiB share a budget: 1 MiB here."""

    LARGE = bytes(700_000)

    @pytest.fixture
    def harness(self) -> Harness:
        return Harness(limits=RequestLimits(timeout_s=20), body_budget_bytes=2**20)

    def held(self, harness: Harness) -> float | None:
        return harness.metrics.registry.get_sample_value("jetface_body_bytes_in_flight")

    async def test_a_body_waits_until_there_is_room(self, client: httpx.AsyncClient, harness: Harness) -> None:
        harness.extractor.delay_s = 0.3
        answers = [asyncio.create_task(client.post("/detect", content=self.LARGE, headers=JPEG)) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert self.held(harness) == len(self.LARGE)
        assert harness.places.num_taken == 1  # who waits for room takes no place
        assert (await client.post("/detect", content=PICTURE, headers=JPEG)).status_code == 200
        assert [answer.status_code for answer in await asyncio.gather(*answers)] == [200] * 3
        assert self.held(harness) == 0

    async def test_who_waits_in_vain_is_429_before_the_deadline(
        self, client: httpx.AsyncClient, harness: Harness
    ) -> None:
        harness.extractor.delay_s = 1.0
        first = asyncio.create_task(client.post("/detect", content=self.LARGE, headers=JPEG))
        await asyncio.sleep(0.1)
        headers = {**JPEG, "x-request-timeout-ms": "300"}
        second = await client.post("/detect", content=self.LARGE, headers=headers)
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) >= 1
        assert (await first).status_code == 200
        assert self.held(harness) == 0

    async def test_who_goes_or_is_refused_gives_back(self, client: httpx.AsyncClient, harness: Harness) -> None:
        harness.extractor.delay_s = 5.0
        tasks = [asyncio.create_task(client.post("/detect", content=self.LARGE, headers=JPEG)) for _ in range(2)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert self.held(harness) == 0
        assert (await client.post("/detect", content=b"{" + self.LARGE, headers=JSON)).status_code == 422
        assert self.held(harness) == 0

    @pytest.mark.slow
    async def test_who_declares_much_and_sends_little_takes_nothing_from_others(
        self, client: httpx.AsyncClient, harness: Harness
    ) -> None:
        """Twenty declare 60 MB each, and stop after 300 kB: what they sent is more than the budget by itself."""
        stays = asyncio.Event()

        async def drip() -> AsyncIterator[bytes | None]:
            yield bytes(300_000)
            await stays.wait()
            yield None

        headers = {**JPEG, "content-length": "60000000"}
        drippers = [RawRequest(drip(), headers, "/detect") for _ in range(20)]
        tasks = [asyncio.create_task(dripper.send_to(harness.app)) for dripper in drippers]
        answers = [await client.post("/detect", content=self.LARGE, headers=JPEG) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 5
        stays.set()
        await asyncio.gather(*tasks)
        assert {dripper.status for dripper in drippers} <= {0, 429}
        assert self.held(harness) == 0

    async def test_a_body_of_base64_counts_with_what_it_is_decoded_to(
        self, client: httpx.AsyncClient, harness: Harness
    ) -> None:
        harness.extractor.delay_s = 0.2
        text = base64.b64encode(bytes(300_000)).decode()
        task = asyncio.create_task(client.post("/detect", json={"images": {"data": [text]}}))
        await asyncio.sleep(0.1)
        assert self.held(harness) == pytest.approx(1.75 * len(text), rel=0.01)
        assert (await task).status_code == 200

    async def test_one_that_is_longer_than_the_budget_waits_until_it_is_alone(
        self, client: httpx.AsyncClient, harness: Harness
    ) -> None:
        """So does one of unknown length."""

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(8):
                yield bytes(2**18)

        harness.extractor.delay_s = 0.1
        for content in (bytes(2**21), pieces()):
            answers = await asyncio.gather(
                client.post("/detect", content=self.LARGE, headers=JPEG),
                client.post("/detect", content=content, headers=JPEG),
            )
            assert [answer.status_code for answer in answers] == [200] * 2
        assert self.held(harness) == 0
        assert harness.metrics.registry.get_sample_value("jetface_body_bytes_limit") == 2**20
