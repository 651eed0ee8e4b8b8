"""Whatever a client sends, it gets the envelope and a status that says whose fault it was; never 500."""

from __future__ import annotations

import base64
import math
from typing import Any

import httpx
import ormsgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jetface.api.requests import RequestLimits
from tests.support.fakes import Harness, jpeg_of

PICTURE = base64.b64encode(jpeg_of()).decode()
ROUTES = ["/extract", "/detect", "/recognize", "/compare", "/draw_detections", "/multipart/draw_detections"]
JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}


def error_of(answer: httpx.Response, status: int = 422) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error", "detail", "request_id"}
    assert body["detail"] == body["error"]["message"]
    assert body["error"].keys() == {"code", "message", "details"}
    assert body["request_id"] == answer.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "images"),
        ({"images": None}, "images"),
        ({"images": 7}, "images"),
        ({"images": {"url": []}}, "images"),
        ({"images": {"data": PICTURE}}, "images.data"),
        ({"images": {"data": [7]}}, "images.data.0"),
        ({"images": {"data": [None]}}, "images.data.0"),
        ({"images": {"urls": [{}]}}, "images.urls.0"),
        ({"images": {"urls": ["x" * 9000]}}, "images.urls.0"),
        ({"images": {"data": []}, "msgpack": "perhaps"}, "msgpack"),
        ({"images": {"data": []}, "img_req_headers": {"a\r\nb": "c"}}, "img_req_headers"),
        ({"images": {"data": []}, "img_req_headers": {"a": "b\r\nc"}}, "img_req_headers"),
    ],
)
async def test_a_wrong_field_is_named(client: httpx.AsyncClient, fields: dict[str, Any], named: str) -> None:
    for route in ROUTES:
        error = error_of(await client.post(route, json=fields))
        assert error["code"] == "invalid_request"
        assert error["message"].startswith(named)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"threshold": "high"}, "threshold"),
        ({"min_quality": 2}, "min_quality"),
        ({"limit_faces": 1.5}, "limit_faces"),
        ({"limit_faces": 2**40}, "limit_faces"),
        ({"min_face_size": []}, "min_face_size"),
        ({"extract_embedding": {}}, "extract_embedding"),
        ({"embedding_format": "xml"}, "embedding_format"),
        ({"fields": ["password"]}, "fields"),
        ({"fields": 3}, "fields"),
    ],
)
async def test_a_wrong_option_is_named_and_not_echoed(
    client: httpx.AsyncClient, fields: dict[str, Any], named: str
) -> None:
    answer = await client.post("/extract", json={"images": {"data": [PICTURE]}, **fields})
    error = error_of(answer)
    assert error["details"]["fields"][0]["field"].startswith(named)
    assert "password" not in answer.text
    assert "xml" not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b'{"images": NaN}', b'{"threshold": 1e999}',
        b"[" * 100_000, b'{"a":' * 100_000, b'{"images": {"data": ["\\ud800"]}}',
        b'{"limit_faces": ' + b"9" * 5000 + b', "images": {"data": []}}',
    ],
    ids=range(13),
)  # fmt: skip
async def test_broken_json(client: httpx.AsyncClient, body: bytes) -> None:
    for route in ROUTES:
        error_of(await client.post(route, content=body, headers=JSON))


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\x81\x01\x02", b"\xa1\xff", b"\x90", b"\xc0",
     ormsgpack.packb({"images": {"data": []}, "threshold": math.nan})],
    ids=range(9),
)  # fmt: skip
async def test_broken_msgpack(client: httpx.AsyncClient, body: bytes) -> None:
    error_of(await client.post("/extract", content=body, headers=MSGPACK))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_numbers_that_are_none(client: httpx.AsyncClient, value: float) -> None:
    for field in ("threshold", "limit_faces", "min_face_size"):
        body = ormsgpack.packb({"images": {"data": [b"x"]}, field: value})
        error_of(await client.post("/extract", content=body, headers=MSGPACK))


FIELDS = ["images", "data", "urls", "threshold", "fields", "others", "landmarks", "boxes", "msgpack"]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


@given(value=VALUES, route=st.sampled_from(ROUTES))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_msgpack_value_is_answered(client: httpx.AsyncClient, value: object, route: str) -> None:
    answer = await client.post(route, content=ormsgpack.packb(value), headers=MSGPACK)
    assert answer.status_code in {200, 422}


@pytest.mark.parametrize("picture", ["%%%", "", "data:image/png;base64,", "ä"])
async def test_a_picture_that_is_none_fails_its_slot(client: httpx.AsyncClient, picture: str) -> None:
    answer = await client.post("/extract", json={"images": {"data": [picture, PICTURE]}})
    assert [slot["status"] for slot in answer.json()["data"]] == ["failed", "ok"]


@pytest.mark.parametrize("media_type", [None, "text/plain", "video/mp4", "application/jsonx", "; charset=utf-8"])
async def test_a_content_type_not_accepted_is_415_with_the_list(
    client: httpx.AsyncClient, media_type: str | None
) -> None:
    headers = {} if media_type is None else {"content-type": media_type}
    for route in ROUTES:
        body = b'["{"]' if media_type is None else b'{"images": {}}'
        error = error_of(await client.post(route, content=body, headers=headers), 415)
        assert "application/json" in error["message"]
        assert {"image/*", "application/octet-stream"} <= set(error["details"]["accepted"])


@pytest.mark.parametrize(
    "media_type", ["application/octet-stream", "image/heic", "image/pjpeg", "IMAGE/X-Anything", "image/*; q=1"]
)
async def test_a_picture_itself_may_be_called_anything(client: httpx.AsyncClient, media_type: str) -> None:
    """The bytes decide anyway."""
    answer = await client.post("/detect", content=jpeg_of(), headers={"content-type": media_type})
    assert answer.json()["pictures"][0]["status"] == "ok"


async def test_a_compressed_body_is_415(client: httpx.AsyncClient) -> None:
    error_of(await client.post("/extract", content=b"{}", headers={**JSON, "content-encoding": "gzip"}), 415)


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/nothing", 404), ("POST", "/nothing", 404), ("GET", "/models/none_such", 404), ("GET", "/extract", 405),
    ("POST", "/info", 405), ("GET", "/%00", 404), ("GET", "/extract/", 405), ("BREW", "/extract", 405),
])  # fmt: skip
async def test_unknown_routes_and_methods(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    error_of(await client.request(method, path, follow_redirects=True), status)


async def test_errors_are_msgpack_when_asked_for(client: httpx.AsyncClient) -> None:
    answer = await client.get("/nothing", headers={"accept": "application/msgpack"})
    assert answer.headers["content-type"] == "application/x-msgpack"
    assert ormsgpack.unpackb(answer.content)["error"]["code"] == "not_found"


async def test_too_many_pictures() -> None:
    harness = Harness(limits=RequestLimits(max_images=2))
    async with harness.client() as client:
        error = error_of(await client.post("/extract", json={"images": {"data": [PICTURE] * 3}}))
        assert error["details"] == {"max_images": 2}
        files = [("file", ("a", b"x"))] * 3
        error_of(await client.post("/extract", files=files))


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "x", "", "9" * 30])
async def test_a_deadline_that_is_none(client: httpx.AsyncClient, value: str) -> None:
    headers = {"x-request-timeout-ms": value}
    error = error_of(await client.post("/extract", json={"images": {"data": []}}, headers=headers))
    assert "x-request-timeout-ms" in error["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"landmarks": [[[[1, 2]] * 4]]},
        {"landmarks": [[[[1, 2, 3]] * 5]]},
        {"landmarks": "no JSON"},
        {"landmarks": [[], []]},
        {"boxes": [[[1, 2, 3]]]},
        {"boxes": [[[0, 0, 1, 1]] * 1025]},
        {"boxes": [[]], "landmarks": [[]]},
    ],
    ids=range(7),
)
async def test_places_of_faces_that_are_none(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    error_of(await client.post("/recognize", json={"images": {"data": [PICTURE]}, **fields}))


@pytest.mark.parametrize("pictures", [[], [PICTURE], [PICTURE] * 3])
async def test_two_pictures_are_compared(client: httpx.AsyncClient, pictures: list[str]) -> None:
    error_of(await client.post("/compare", json={"images": {"data": pictures}}))


class TestForms:
    async def test_without_a_file(self, client: httpx.AsyncClient) -> None:
        error_of(await client.post("/extract", files={"x": ("a", b"x")}))

    async def test_without_a_boundary(self, client: httpx.AsyncClient) -> None:
        error_of(await client.post("/extract", content=b"x", headers={"content-type": "multipart/form-data"}))

    async def test_broken(self, client: httpx.AsyncClient) -> None:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        for body in (b"", b"x", b"--b\r\n\r\nx\r\n--b--", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--"):
            error_of(await client.post("/extract", content=body, headers=headers))

    async def test_too_many_fields(self, client: httpx.AsyncClient) -> None:
        fields = {f"f{number}": "1" for number in range(65)}
        error_of(await client.post("/extract", files={"file": ("a", b"x")}, data=fields))

    async def test_a_field_that_is_too_long(self, client: httpx.AsyncClient) -> None:
        error_of(await client.post("/extract", files={"file": ("a", b"x")}, data={"threshold": "1" * (2**20 + 1)}))

    async def test_a_number_that_is_too_long(self, client: httpx.AsyncClient) -> None:
        error_of(await client.post("/extract", files={"file": ("a", b"x")}, data={"limit_faces": "9" * 5000}))
