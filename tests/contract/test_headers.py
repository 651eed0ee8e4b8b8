"""Every answer, whatever became of the request, says which request it answers and where its time went."""

from __future__ import annotations

import re
from collections import defaultdict

import httpx
import pytest

from jetface.api.requests import RequestLimits
from jetface.errors import InferenceError, ModelFileError, QueueFullError, ServiceError
from jetface.server.limits import Access
from tests.support.fakes import Harness, jpeg_of

JPEG = {"content-type": "image/jpeg"}

_TIMING = re.compile(r"[a-z]+;dur=\d+\.\d\d(, [a-z]+;dur=\d+\.\d\d)*")


def check(answer: httpx.Response) -> None:
    assert answer.headers.get_list("x-request-id") == ["me-1"]
    (timing,) = answer.headers.get_list("server-timing")
    assert _TIMING.fullmatch(timing)
    assert timing.split(", ")[-1].startswith("total;")


async def ask(harness: Harness, method: str, path: str, **request: object) -> httpx.Response:
    async with harness.client() as client:
        headers = {"x-request-id": "me-1", **request.pop("headers", {})}  # type: ignore[dict-item] # a test's own
        return await client.request(method, path, headers=headers, **request)  # type: ignore[arg-type] # as above


def routes() -> list[tuple[str, str]]:
    """Return every method and path there is."""
    paths = Harness().app.openapi()["paths"]
    described = [
        (method.upper(), path.format_map(defaultdict(lambda: "any", name="det_500m")))
        for path, methods in paths.items()
        for method in methods
    ]
    assert ("POST", "/extract") in described
    return [*described, ("GET", "/"), ("HEAD", "/")]


@pytest.mark.parametrize(("method", "path"), routes())
async def test_every_route(method: str, path: str) -> None:
    check(await ask(Harness(), method, path, content=jpeg_of(), headers=JPEG))


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/static-offline-docs/swagger-ui.css"])
async def test_the_documentation(path: str) -> None:
    answer = await ask(Harness(), "GET", path)
    assert answer.status_code == 200
    check(answer)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/nowhere", {}, 404),
        ("POST", "/nowhere", {}, 404),
        ("BREW", "/nowhere", {}, 404),
        ("GET", "/models/nobody", {}, 404),
        ("GET", "/static-offline-docs/nothing", {}, 404),
        ("GET", "/extract", {}, 405),
        ("DELETE", "/metrics", {}, 405),
        ("POST", "/extract", {"content-type": "text/plain"}, 415),
        ("POST", "/extract", {"content-type": "application/json"}, 422),
        ("POST", "/extract", {"x-request-timeout-ms": "soon"}, 422),
    ],
)
async def test_what_cannot_be_served(method: str, path: str, headers: dict[str, str], status: int) -> None:
    answer = await ask(Harness(), method, path, headers=headers)
    assert answer.status_code == status
    check(answer)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QueueFullError("Full."), 429),
        (ModelFileError("Missing."), 503),
        (InferenceError("Failed."), 500),
        (ServiceError("Failed."), 500),
        (RuntimeError("a bug"), 500),
    ],
)
async def test_failures_of_the_layers_below(error: Exception, status: int) -> None:
    harness = Harness()
    harness.extractor.error = error
    answer = await ask(harness, "POST", "/extract", content=jpeg_of(), headers=JPEG)
    assert answer.status_code == status
    check(answer)


async def test_a_stranger_and_a_body_that_is_too_long() -> None:
    closed = Harness(access=Access(api_keys=("secret",)), limits=RequestLimits(max_body_bytes=10))
    stranger = await ask(closed, "POST", "/extract", content=jpeg_of(), headers=JPEG)
    guest = await ask(closed, "POST", "/extract", content=jpeg_of(), headers={**JPEG, "x-api-key": "secret"})
    assert (stranger.status_code, guest.status_code) == (401, 413)
    check(stranger)
    check(guest)


async def test_a_request_past_its_deadline() -> None:
    harness = Harness()
    harness.extractor.delay_s = 5
    answer = await ask(harness, "POST", "/extract", content=jpeg_of(), headers={**JPEG, "x-request-timeout-ms": "20"})
    assert answer.status_code == 504
    check(answer)


async def test_a_service_that_drains() -> None:
    harness = Harness()
    harness.drain.begin(lambda: None, "a test")
    refused = await ask(harness, "POST", "/extract", content=jpeg_of(), headers=JPEG)
    unready = await ask(harness, "GET", "/health/ready")
    assert (refused.status_code, unready.status_code) == (503, 503)
    check(refused)
    check(unready)
    scrape = await ask(harness, "GET", "/metrics")
    assert "\njetface_ready 0.0\n" in scrape.text
