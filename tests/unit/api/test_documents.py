"""The pages that show the API's description."""

from __future__ import annotations

import base64
import hashlib
import re

import httpx
import pytest

OTHER_HOSTS = re.compile(rb"""(?:src|href)\s*[:=]\s*["']?(https?:)?//[^"'\s]+\.(?:js|css|svg|png|ico|woff2?)\b""")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_pages_and_their_files_name_no_file_of_another_host(client: httpx.AsyncClient, path: str) -> None:
    """A page that tells its maker who reads it is not offline. A browser looks at the same in `tests/page`."""
    page = await client.get(path)
    assert page.status_code == 200
    files = re.findall(rb'(?:src|href)="(/static[^"]+)"', page.content)
    assert files
    for content in (page.content, *[(await client.get(file.decode())).content for file in files]):
        assert not OTHER_HOSTS.search(content)


async def test_redoc_is_a_script(client: httpx.AsyncClient) -> None:
    script = await client.get("/static-offline-docs/redoc.standalone.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert b"redocly logo" in script.content
    assert b"cdn.redoc.ly" not in script.content


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect", "/docs/"])
async def test_pages_run_their_own_scripts_and_no_other(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    rules = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in rules["script-src"]
    for script in re.findall("<script>(.*?)</script>", answer.text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules["script-src"]
