"""Answers from memory over HTTP: of the stateless routes, never across keys, never of the gallery."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jetface.main import create_app
from jetface.settings import Settings
from tests.support.drawn import PEOPLE, draw_portrait, encode

pytestmark = pytest.mark.weights  # the starter models

PICTURE = encode(draw_portrait(PEOPLE[0]))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of a service with two keys and a gallery that remembers."""
    settings = Settings(
        models_dir=tmp_path / "models", model_download=False, backend="onnxruntime", result_cache_mb=1,
        api_keys="first,second", gallery_dir=tmp_path / "gallery", det_model="starter_det", rec_model="starter_rec",
    )  # fmt: skip
    app = create_app(settings)
    headers = {"x-api-key": "first"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://jetface", headers=headers) as caller,
    ):
        await caller.post("/extract", files={"file": encode(draw_portrait(PEOPLE[1]))})
        yield caller


async def outcomes(client: httpx.AsyncClient) -> dict[str, int]:
    """Count hits and misses so far, without that of the first load."""
    lines = (await client.get("/metrics")).text.splitlines()
    found = {
        outcome: sum(int(float(line.split()[1])) for line in lines if line.startswith(name))
        for outcome in ("hit", "miss")
        for name in [f'jetface_result_cache_total{{outcome="{outcome}"}}']
    }
    return {**found, "miss": found["miss"] - 1}


async def post(client: httpx.AsyncClient, route: str, **more: Any) -> httpx.Response:
    answer = await client.post(route, files={"file": PICTURE}, **more)
    assert answer.status_code == 200, answer.text
    return answer


async def test_every_stateless_route_answers_again_what_it_answered(client: httpx.AsyncClient) -> None:
    """But for its own time and id; formats of an answer are none of a picture's options."""
    for number, route in enumerate(("/extract", "/detect", "/recognize"), start=1):
        first = await post(client, route)
        again = await post(client, route)
        assert await outcomes(client) == {"miss": number, "hit": number}
        (slot,), (same,) = (answer.json()["data" if route == "/extract" else "pictures"] for answer in (first, again))
        assert {**slot, "took_ms": 0} == {**same, "took_ms": 0}
        assert same["took_ms"] < slot["took_ms"]
        assert "decode;dur" in first.headers["server-timing"]
        assert "decode;dur" not in again.headers["server-timing"]
        assert first.headers["x-request-id"] != again.headers["x-request-id"]
    packed = await post(client, "/detect", headers={"accept": "application/msgpack"})
    assert packed.headers["content-type"] == "application/x-msgpack"
    await post(client, "/draw_detections")
    assert await outcomes(client) == {"miss": 3, "hit": 5}
    await post(client, "/detect", data={"threshold": "0.45"})
    assert await outcomes(client) == {"miss": 4, "hit": 5}


async def test_another_key_is_told_nothing_that_was_kept_for_the_first(client: httpx.AsyncClient) -> None:
    await post(client, "/detect")
    for number, key in enumerate(("second", "second", "first")):
        await post(client, "/detect", headers={"x-api-key": key})
        assert await outcomes(client) == {"miss": 2, "hit": number}
    refused = await client.post("/detect", files={"file": PICTURE}, headers={"x-api-key": "third"})
    assert refused.status_code == 401


async def test_the_gallery_always_looks(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/collections", json={"name": "people"})).status_code == 201
    for _ in range(2):
        enrolled = await client.post("/v1/collections/people/persons/ada/faces", files={"file": PICTURE})
        assert enrolled.status_code in {200, 201}, enrolled.text
        found = await client.post("/v1/collections/people/search", files={"file": PICTURE})
        assert found.status_code == 200, found.text
    assert await outcomes(client) == {"miss": 0, "hit": 0}
