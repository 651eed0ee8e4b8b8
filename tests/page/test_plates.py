"""Plates: found and read, shown with what the reader is sure of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.page.conftest import Visit
from tests.support.server import PLATES_ON, Server, running_server


@pytest.fixture(scope="module")
def plate_server(weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that reads plates and finds no faces."""
    variables = {**weights, **PLATES_ON, "DET_MODEL": "none", "REC_MODEL": "none"}
    with running_server(tmp_path_factory.mktemp("plates"), variables) as started:
        yield started


def test_plates_are_read(visit: Callable[..., Visit], plate_server: Server, traffic: bytes) -> None:
    """Where there are no faces the page begins here; text, confidence and each character's are on the cards."""
    visited = visit(f"{plate_server.url}/", width_px=390, height_px=844, dark=True)
    page = visited.page
    tab = page.get_by_role("tab", name="Plates")
    expect(tab).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tab")).to_have_count(1)
    visited.drop("#plates", ("traffic.jpg", traffic), ("notes.txt", b"not a picture"))
    card = page.locator(".plate").first
    expect(card.locator(".plate-text")).to_have_text("SB90TZI")
    expect(card).to_contain_text(re.compile(r"confidence (0\.9|1\.0)"))
    expect(card.locator(".character b")).to_have_text(list("SB90TZI"))
    expect(card.get_by_role("img", name="Confidence of each character: S ")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("notes.txt: It could not be read.")
    expect(page.get_by_role("note")).to_contain_text("A starter model finds the plates")
    drawn = page.locator("#plates canvas.picture").evaluate("canvas => canvas.toDataURL()")
    card.press("Enter")
    expect(card).to_have_attribute("aria-pressed", "true")
    expect(card).to_be_focused()
    assert page.locator("#plates canvas.picture").evaluate("canvas => canvas.toDataURL()") != drawn
    expect(page.locator("#plates-curl")).to_contain_text("/plates")
    assert Axe().run(page).violations_count == 0
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#plates-choose")).to_be_focused()
    assert visited.complaints == []
    assert visited.strangers == []
