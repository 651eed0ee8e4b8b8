"""Serving the page: fresh when it changes, kept when it does not, and allowed no more than it needs."""

from __future__ import annotations

import re

import httpx
import pytest

from jetface.api.page import read_page
from jetface.server.limits import Access
from tests.support.fakes import Harness


async def _assets(client: httpx.AsyncClient) -> list[str]:
    return re.findall(r'(?:href|src)="(static/[^"]+)"', (await client.get("/")).text)


async def test_the_page_and_its_files_are_served_as_what_they_are(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    kinds = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
    paths = await _assets(client)
    assert len(paths) >= 3
    for path in paths:
        asset = await client.get(f"/{path}")
        assert asset.status_code == 200
        assert asset.headers["content-type"] == kinds[path.rpartition(".")[2]]


def test_scripts_import_only_what_is_served() -> None:
    page = read_page()
    for name, asset in page.assets.items():
        for imported in re.findall(rb'from "\./([^"]+)"', asset.content):
            assert imported.decode() in page.assets, name


async def test_the_page_is_asked_for_anew_and_costs_nothing_when_unchanged(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert answer.headers["cache-control"] == "no-cache"
    again = await client.get("/", headers={"if-none-match": f'"other", W/{answer.headers["etag"]}'})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == answer.headers["etag"]


async def test_files_are_kept_for_good_under_their_digest_only(client: httpx.AsyncClient) -> None:
    """A page of another version still gets them, and nobody keeps them under the wrong name."""
    (path, *_) = await _assets(client)
    assert "immutable" in (await client.get(f"/{path}")).headers["cache-control"]
    other = "static/0000/" + path.rpartition("/")[2]
    answer = await client.get(f"/{other}")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/", "/static/0000/page.js"])
async def test_the_page_may_do_only_what_it_needs(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"


async def test_the_head_of_the_page(client: httpx.AsyncClient) -> None:
    assert (await client.head("/")).status_code == 200


@pytest.mark.parametrize("name", ["none.js", "__init__.py", "..%2f__init__.py", "%2e%2e%2findex.html"])
async def test_nothing_else_is_served(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/static/0000/{name}")).status_code == 404


async def test_the_page_needs_no_key() -> None:
    """It asks for one itself."""
    async with Harness(access=Access(api_keys=("secret",))).client() as client:
        assert (await client.get("/")).status_code == 200
        for path in await _assets(client):
            assert (await client.get(f"/{path}")).status_code == 200


def test_no_file_of_the_page_names_another_host() -> None:
    page = read_page()
    for asset in (page.index, *page.assets.values()):
        found = re.findall(rb"https?://[\w.]+", asset.content)
        assert set(found) <= {b"http://www.w3.org"}  # the name of SVG, which nobody fetches
