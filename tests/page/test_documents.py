"""`/docs` and `/redoc` without an internet connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Visit
from tests.support.server import Server


@pytest.mark.parametrize(
    ("path", "selector"),
    [
        pytest.param("/docs", ".opblock-summary-path", id="swagger"),
        pytest.param("/redoc", "[data-section-id]", id="redoc"),
    ],
)
def test_the_api_documentation_works_offline(
    visit: Callable[..., Visit], server: Server, path: str, selector: str
) -> None:
    """It lists the routes and asks nothing of any other host."""
    visited = visit(f"{server.url}{path}")
    expect(visited.page.locator(selector).first).to_be_visible()
    expect(visited.page.locator("body")).to_contain_text("/extract")
    assert visited.strangers == []
    assert visited.complaints == []
