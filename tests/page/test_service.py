"""What the page says of the service: its key, its models, and that starter models are no more than that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.page.conftest import Visit
from tests.support.server import Server, running_server

KEY = "open-sesame"


def unlock(page: Page) -> None:
    """Enter the key that the page asks for."""
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")


@pytest.fixture(scope="module")
def locked_server(weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with two places that asks for a key; the starter detector answers, and models that tell attributes."""
    settings = {
        **weights,
        "DET_MODEL": "starter_det",
        "REC_MODEL": "none",
        "GA_MODEL": "genderage_v1",
        "MASK_MODEL": "mask_detector_seeta",
        "API_KEYS": KEY,
        "MAX_IN_FLIGHT": "2",
    }
    with running_server(tmp_path_factory.mktemp("locked"), settings) as started:
        yield started


def test_a_key_is_asked_for_and_used(visit: Callable[..., Visit], locked_server: Server, t1: tuple[str, bytes]) -> None:
    """A wrong one is refused in words; the right one opens the service for this tab, and is not in the shell's line."""
    visited = visit(f"{locked_server.url}/")
    page = visited.page
    expect(page.locator("#state-text")).to_have_text("Needs an API key")
    field = page.get_by_label("This service asks for an API key.")
    expect(field).to_be_focused()
    field.fill("wrong")
    page.keyboard.press("Enter")
    field = page.get_by_label("This service does not accept that key.")
    field.fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#key-form")).to_be_hidden()
    visited.drop("#find", t1)
    expect(page.locator(".face")).to_have_count(6)
    expect(page.locator("#curl")).to_contain_text("x-api-key: YOUR_KEY")
    page.reload()
    expect(page.locator(".badge").first).to_have_text("serving")
    # The browser notes each 401 by itself.
    assert [text for text in visited.complaints if "401" not in text] == []


def test_without_a_recognizer_faces_are_found_all_the_same(
    visit: Callable[..., Visit], locked_server: Server, t1: tuple[str, bytes]
) -> None:
    page = visit(f"{locked_server.url}/").page
    unlock(page)
    expect(page.locator("#models")).to_contain_text("finds faces")
    page.locator("#find-files").set_input_files({"name": t1[0], "mimeType": "image/jpeg", "buffer": t1[1]})
    expect(page.locator(".face")).to_have_count(6)
    expect(page.locator("#faces-hint")).to_be_hidden()


def test_attributes_are_told_of_each_face(
    visit: Callable[..., Visit], locked_server: Server, t1: tuple[str, bytes]
) -> None:
    """Those whose models are configured, and quality, which needs none; a chosen face tells more of it."""
    visited = visit(f"{locked_server.url}/")
    page = visited.page
    unlock(page)
    expect(page.locator("#models")).to_contain_text("guesses gender and age")
    visited.drop("#find", t1)
    expect(page.locator(".face")).to_have_count(6)
    words = page.locator(".face").all_inner_texts()
    assert sum("woman, about" in text for text in words) == 3
    assert all("mask" in text and "quality 0." in text for text in words)
    assert not any("live" in text for text in words)
    page.locator(".face").first.click()
    expect(page.locator("#faces-hint")).to_contain_text("Sharpness")


def test_pictures_wait_for_what_the_service_tells_and_for_a_key(
    visit: Callable[..., Visit], locked_server: Server, t1: tuple[str, bytes]
) -> None:
    """Dropped before the models were told, before the first key, or while a key is refused; no more than 500."""
    visited = visit(f"{locked_server.url}/")
    page = visited.page
    visited.drop("#find", *[(f"{number}.jpg", b"") for number in range(501)])
    expect(page.locator('#find [data-part="count"]')).to_have_text("500 pictures, 500 still to look at")
    expect(page.get_by_role("alert")).to_contain_text("This page keeps 500 pictures at a time")
    page.get_by_role("button", name="Clear all").click()
    visited.drop("#find", t1)
    expect(page.locator('#find [data-part="busy"]')).to_be_visible()
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.fallback()
        else:
            held.append(route)

    page.route("**/info", hold_the_first)
    with page.expect_request("**/info"):
        unlock(page)
    visited.drop("#find", ("later.jpg", t1[1]))
    expect(page.locator(".face")).to_have_count(0)
    held[0].fallback()
    expect(page.locator('#find [data-part="count"]')).to_have_text("2 pictures")
    assert all("about" in text and "mask" in text for text in page.locator(".face").all_inner_texts())

    # The key is changed while the page is open.
    page.evaluate("sessionStorage.setItem('jetface.key', 'of yesterday')")
    visited.drop("#find", *[(f"{number}.jpg", t1[1]) for number in range(2)])
    expect(page.locator("#key-form")).to_contain_text("This service does not accept that key.")
    unlock(page)
    expect(page.locator('#find [data-part="count"]')).to_have_text("4 pictures")
    expect(page.locator(".face")).to_have_count(6)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_busy_service_is_given_time(
    visit: Callable[..., Visit], locked_server: Server, t1: tuple[str, bytes]
) -> None:
    """While somebody else has all places, pictures wait, one box says so, and then they are looked at."""
    visited = visit(f"{locked_server.url}/")
    page = visited.page
    unlock(page)
    expect(page.locator("#models")).to_contain_text("finds faces")
    busy = page.locator("#busy-note")
    was_told = Event()

    def crowd() -> None:
        headers = {"x-api-key": KEY}
        with httpx.Client(base_url=locked_server.url, headers=headers, timeout=60, trust_env=False) as client:
            while not was_told.wait(0.01):
                client.post("/detect", files=[("file", t1)] * 4)

    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(crowd) for _ in range(3)]
        visited.drop("#find", *[(f"{number}.jpg", t1[1]) for number in range(3)])
        expect(busy).to_contain_text("The service is busy. Trying again in")
        was_told.set()
        for other in others:
            other.result()
    expect(page.locator('#find [data-part="count"]')).to_have_text("3 pictures")
    expect(page.locator(".face")).to_have_count(6)
    expect(busy).to_be_hidden()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_starter_models_are_called_that(visit: Callable[..., Visit], locked_server: Server) -> None:
    """Plainly, before the first picture, with the way to better ones; also to those who have no key."""
    page = visit(f"{locked_server.url}/").page
    note = page.get_by_role("note")
    expect(note).to_contain_text("Starter models are answering: for trying, not for production.")
    expect(note).to_contain_text("jetface models pull")


def test_models_in_use_are_listed(visited: Visit, t1: tuple[str, bytes]) -> None:
    """Name, task, state, backend, licence; the state follows what happens."""
    page = visited.page
    visited.drop("#find", t1)
    expect(page.locator(".model")).to_have_count(2)
    for model in page.locator(".model").all():
        expect(model.locator(".badge")).to_have_text("serving")
        expect(model).to_contain_text("onnxruntime")
        expect(model).to_contain_text("Licence: ")
    expect(page.locator("#state-text")).to_have_text("Ready")
    expect(page.get_by_role("note")).to_have_count(0)
