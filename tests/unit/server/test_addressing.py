"""HEAD, and slashes too many."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from jetface.server.limits import Access
from tests.support.fakes import Harness, jpeg_of

PICTURE: dict[str, Any] = {"content": jpeg_of(), "headers": {"content-type": "image/jpeg"}}
READ = [
    "/", "/health", "/health/live", "/health/ready", "/info", "/models", "/models/det_500m", "/metrics", "/docs",
    "/redoc", "/openapi.json",
]  # fmt: skip


@pytest.mark.parametrize("path", READ)
async def test_head_is_get_without_the_body(client: httpx.AsyncClient, path: str) -> None:
    read, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (read.status_code, b"")
    assert head.headers["content-type"] == read.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


async def test_head_of_what_is_not_there(client: httpx.AsyncClient) -> None:
    assert (await client.head("/nothing")).status_code == 404


async def test_head_tells_bad_news_too() -> None:
    harness = Harness()
    harness.drain.begin(lambda: None, "test")
    async with harness.client() as client:
        assert (await client.head("/health/ready")).status_code == 503


async def test_head_is_counted_as_head_under_its_route() -> None:
    harness = Harness()
    async with harness.client() as client:
        await client.head("/models/det_500m")
    labels = {"route": "/models/{name}", "method": "HEAD", "status": "200"}
    assert harness.metrics.registry.get_sample_value("jetface_requests_total", labels) == 1


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/info", "GET, HEAD"),
        ("HEAD", "/extract", "POST"),
        ("PUT", "/", "GET, HEAD"),
        ("PUT", "/v1/collections/x", "DELETE, GET, HEAD"),
        ("PATCH", "/api/v1/recognition/subjects", "DELETE, GET, HEAD, POST"),
    ],
)
async def test_a_refused_method_names_the_others(client: httpx.AsyncClient, method: str, path: str, allow: str) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("path", [path for path in READ if path != "/"])
async def test_a_trailing_slash_means_nothing(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(f"{path}/")).status_code == 200


@pytest.mark.parametrize("path", ["/extract/", "/detect/", "/multipart/draw_detections/"])
async def test_nor_after_a_route_that_takes_pictures(client: httpx.AsyncClient, path: str) -> None:
    """A redirect would send the pictures twice, or lose them."""
    assert (await client.post(path, **PICTURE)).status_code == 200


@pytest.mark.parametrize("path", ["/extract/", "/extract//", "//", "//evil.example/", "/models/det_500m/", "/static/"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
async def test_nobody_is_sent_to_the_host_a_client_names(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(
        method, httpx.URL("http://jetface").copy_with(raw_path=path.encode()), headers={"host": "evil.example"}
    )
    assert not answer.is_redirect
    assert "evil" not in str(answer.headers)
    assert b"evil" not in answer.content


async def test_a_slash_does_not_lead_past_the_door() -> None:
    async with Harness(access=Access(api_keys=("secret",))).client() as client:
        for path in ("/extract/", "/info/", "/models/", "/metrics/", "/health/ready/../../info/"):
            assert (await client.get(path)).status_code == 401
            assert (await client.head(path)).status_code == 401
        assert (await client.get("/health/ready/")).status_code == 200


@pytest.mark.parametrize("prefix", ["/faces", ""], ids=["the proxy leaves its path", "the proxy takes its path off"])
class TestBelowThePathOfAProxy:
    async def test_everything_is_found_and_what_is_open_needs_no_key(self, prefix: str) -> None:
        harness = Harness(root_path="/faces", access=Access(api_keys=("secret",)))
        async with harness.client() as client:
            for path in ("/", "/health", "/health/live", "/health/ready/", "/docs", "/redoc", "/openapi.json"):
                assert (await client.get(prefix + path)).status_code == 200, path
                assert (await client.head(prefix + path)).status_code == 200, path
            for path in ("/info", "/models", "/metrics"):
                assert (await client.get(prefix + path)).status_code == 401, path
                answer = await client.get(prefix + path, headers={"x-api-key": "secret"})
                assert answer.status_code == 200, path
            answer = await client.post(f"{prefix}/extract", **with_key(PICTURE))
            assert (answer.status_code, len(answer.json()["data"])) == (200, 1)
            assert (await client.get(f"{prefix}/nothing", headers={"x-api-key": "secret"})).status_code == 404
            metrics = (await client.get("/metrics", headers={"x-api-key": "secret"})).text
            assert 'jetface_requests_total{method="POST",route="/extract",status="200"} 1.0' in metrics
            assert "faces/" not in metrics

    async def test_page_and_documentation_name_what_is_there(self, prefix: str) -> None:
        async with Harness(root_path="/faces").client() as client:
            page = (await client.get(prefix + "/")).text
            assert '<base href="/faces/">' in page
            assets = re.findall(r'(?:href|src)="(static/[^"]+)"', page)
            docs = (await client.get(f"{prefix}/docs")).text + (await client.get(f"{prefix}/redoc")).text
            named = re.findall(r"""["'](/[^"']+\.(?:js|css|png|json))["']""", docs)
            assert len(assets) >= 3
            assert "/faces/openapi.json" in named
            for path in (*(f"/faces/{asset}" for asset in assets), *named):
                assert path.startswith("/faces/")
                assert (await client.get(prefix + path.removeprefix("/faces"))).status_code == 200, path
            assert (await client.get(f"{prefix}/openapi.json")).json()["servers"] == [{"url": "/faces"}]


@pytest.mark.parametrize("root_path", ["/extract", "/models", "/health"])
async def test_the_path_of_a_proxy_may_be_that_of_a_route(root_path: str) -> None:
    async with Harness(root_path=root_path).client() as client:
        for prefix in (root_path, ""):
            for path in ("/health/live", "/models", "/docs"):
                assert (await client.get(prefix + path)).status_code == 200, prefix + path
            assert (await client.post(f"{prefix}/extract", **PICTURE)).status_code == 200


async def test_only_whole_names_are_taken_for_the_path_of_the_proxy() -> None:
    async with Harness(root_path="/faces").client() as client:
        for path in ("/facesextract", "/faces2/health", "/other/health", "/faces/faces/health"):
            assert (await client.get(path)).status_code == 404, path


def with_key(request: dict[str, Any]) -> dict[str, Any]:
    return {**request, "headers": {**request["headers"], "x-api-key": "secret"}}
