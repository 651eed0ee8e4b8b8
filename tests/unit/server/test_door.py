"""Who may come in."""

from __future__ import annotations

import httpx
import pytest

from jetface.api.requests import RequestLimits
from jetface.server.limits import Access
from tests.support.asgi import RawRequest, chunks
from tests.support.fakes import Harness, jpeg_of

KEYS = Access(api_keys=("first-key", "second-key"))
JPEG = {"content-type": "image/jpeg"}


@pytest.fixture
def harness() -> Harness:
    return Harness(access=KEYS)


@pytest.mark.parametrize(
    "headers",
    [{"x-api-key": "first-key"}, {"x-api-key": "second-key"}, {"authorization": "Bearer first-key"},
     {"authorization": "bearer  second-key"}],
)  # fmt: skip
async def test_every_key_opens_in_either_header(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await client.post("/extract", content=jpeg_of(), headers={**JPEG, **headers})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": "first"}, {"x-api-key": ""}, {"authorization": "Bearer"}, {"authorization": "Basic first-key"},
     {"x-api-key": "first-key,second-key"}],
)  # fmt: skip
async def test_anything_else_is_401_before_the_body(harness: Harness, headers: dict[str, str]) -> None:
    refused = RawRequest(chunks(jpeg_of(), b""), {**JPEG, "content-length": "100", **headers})
    await refused.send_to(harness.app)
    assert (refused.status, refused.code, refused.num_receives) == (401, "unauthorized", 0)
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.headers["connection"] == "close"


@pytest.mark.parametrize(("keys", "status"), [((b"first-key", b"wrong"), 200), ((b"wrong", b"first-key"), 401)])
async def test_of_a_header_that_comes_twice_the_first_counts(
    harness: Harness, keys: tuple[bytes, ...], status: int
) -> None:
    asked = RawRequest(chunks(jpeg_of(), b""), JPEG)
    asked.scope["headers"] += [(b"x-api-key", key) for key in keys]
    assert (await asked.send_to(harness.app)).status == status


async def test_a_key_that_is_no_text_is_401(harness: Harness) -> None:
    refused = RawRequest(chunks(b""), JPEG)
    refused.scope["headers"].append((b"x-api-key", b"\xff\xfe"))
    assert (await refused.send_to(harness.app)).status == 401


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/docs", "/redoc", "/openapi.json"])
async def test_open_routes_need_no_key(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/info", "/models", "/metrics", "/nothing"])
async def test_other_routes_need_one(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 401


async def test_metrics_can_be_opened() -> None:
    access = Access(api_keys=("k",), open_paths=KEYS.open_paths | {"/metrics"})
    async with Harness(access=access).client() as client:
        assert (await client.get("/metrics")).status_code == 200


@pytest.mark.parametrize(("declared", "status"), [("1001", 413), ("9" * 30, 413), ("x", 422), ("-1", 422)])
async def test_a_declared_length_is_checked_before_the_body(declared: str, status: int) -> None:
    harness = Harness(limits=RequestLimits(max_body_bytes=1000))
    refused = RawRequest(chunks(b"x", b""), {**JPEG, "content-length": declared})
    await refused.send_to(harness.app)
    assert (refused.status, refused.num_receives) == (status, 0)


async def test_an_undeclared_length_is_counted_while_the_body_comes() -> None:
    harness = Harness(limits=RequestLimits(max_body_bytes=1000))
    parts = [b"x" * 400] * 100
    refused = RawRequest(chunks(*parts, b""), {**JPEG, "transfer-encoding": "chunked"})
    await refused.send_to(harness.app)
    assert (refused.status, refused.code, refused.num_receives) == (413, "body_too_large", 3)
    assert refused.headers["connection"] == "close"
