"""Which pages may call the service from a browser: none but its own, unless the operator names others."""

from __future__ import annotations

import httpx
import pytest

from jetface.main import create_app
from jetface.server.limits import Access
from jetface.settings import Settings
from tests.support.fakes import Harness, jpeg_of

PAGE = {"origin": "https://page.example"}
PREFLIGHT = {**PAGE, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
OPEN_TO_PAGE = Access(api_keys=("key",), cors_origins=("https://page.example",))


async def test_off_by_default(client: httpx.AsyncClient) -> None:
    """No header tells a browser that another page may read an answer; asking beforehand is no route."""
    answers = [await client.get("/info", headers=PAGE), await client.options("/extract", headers=PREFLIGHT)]
    assert [answer.status_code for answer in answers] == [200, 405]
    assert not any(name.startswith("access-control") for answer in answers for name in answer.headers)


async def test_a_named_origin_may_ask_beforehand_without_a_key() -> None:
    async with Harness(access=OPEN_TO_PAGE).client() as client:
        answer = await client.options("/extract", headers=PREFLIGHT)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert "x-api-key" in answer.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(("key", "status"), [("key", 200), ("wrong", 401)])
async def test_a_named_origin_reads_answers_and_errors(key: str, status: int) -> None:
    headers = {**PAGE, "x-api-key": key, "content-type": "image/jpeg"}
    async with Harness(access=OPEN_TO_PAGE).client() as client:
        answer = await client.post("/extract", content=jpeg_of(), headers=headers)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()


async def test_another_origin_is_not_told_anything() -> None:
    async with Harness(access=OPEN_TO_PAGE).client() as client:
        asked = await client.options("/extract", headers={**PREFLIGHT, "origin": "https://other.example"})
        read = await client.get("/health", headers={"origin": "https://other.example"})
    assert asked.status_code == 400
    assert "access-control-allow-origin" not in {**asked.headers, **read.headers}


@pytest.mark.parametrize(("is_open", "status"), [(False, 401), (True, 200)])
async def test_the_settings_open_the_metrics_and_the_api(*, is_open: bool, status: int) -> None:
    """The variables reach the application they configure."""
    app = create_app(Settings(api_keys="key", metrics_open=is_open, cors_origins="*", model_download=False))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://jetface") as client:
        metrics = await client.get("/metrics", headers=PAGE)
        info = await client.get("/info", headers=PAGE)
    assert (metrics.status_code, info.status_code) == (status, 401)
    assert metrics.headers["access-control-allow-origin"] == "*"
