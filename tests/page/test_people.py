"""People: enrolled from the page, named on the Find page, deleted for good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.page.conftest import SWITCHES, Visit
from tests.support.server import Server, running_server


@pytest.fixture(scope="module")
def gallery_server(weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with a gallery that keeps crops."""
    folder = tmp_path_factory.mktemp("gallery")
    variables = {**weights, "GALLERY_DIR": str(folder / "people"), "GALLERY_KEEP_CROPS": "1"}
    with running_server(folder, variables) as started:
        yield started


def test_what_is_off_has_no_tab(visited: Visit) -> None:
    expect(visited.page.locator("#version")).to_contain_text("jetface")
    expect(visited.page.get_by_role("tab")).to_have_text(["Find", "Compare"])


def test_a_person_is_enrolled_named_and_deleted(
    visit: Callable[..., Visit], gallery_server: Server, pairs: list[list[tuple[str, bytes]]], t1: tuple[str, bytes]
) -> None:
    visited = visit(f"{gallery_server.url}/")
    page = visited.page
    # What is on Find already gets its name, too.
    expect(page.get_by_role("tab", name="People")).to_be_visible()
    visited.drop("#find-drop", pairs[0][1])
    expect(page.locator(".face")).to_contain_text("Face 1")
    page.get_by_role("tab", name="People").click()
    expect(page.locator("#people-title")).to_have_text("Nobody yet")
    expect(page.locator("#enrol")).to_be_disabled()
    visited.drop("#people-drop", pairs[0][0])
    page.get_by_label("Name").fill("Ada / Lovelace")
    page.get_by_role("button", name="Enrol").click()
    expect(page.locator("#people-title")).to_have_text("1 person, 1 face")
    expect(page.locator(".person img")).to_be_visible()
    assert Axe().run(page).violations_count == 0

    # Pictures that cannot be enrolled, or were before, say why, and nothing is lost.
    visited.drop("#people-drop", pairs[0][0])
    page.locator("#person-name").fill("Somebody")
    page.get_by_role("button", name="Enrol").click()
    expect(page.locator("#people-errors")).to_contain_text("it is enrolled already, as Ada - Lovelace.")
    expect(page.locator("#person-name")).to_have_value("Somebody")
    page.get_by_label("take the largest").uncheck()
    visited.drop("#people-drop", t1)
    page.get_by_role("button", name="Enrol").click()
    expect(page.locator("#people-errors")).to_contain_text("6 faces were found")

    # Another photograph on the Find page carries the name, on its card and for who hears the page.
    page.get_by_role("tab", name="Find").click()
    expect(page.locator("#faces")).to_contain_text("Ada / Lovelace")
    expect(page.locator("#faces")).to_contain_text("known, alike 0.")
    visited.drop("#find-drop", pairs[0][0], pairs[1][0])
    expect(page.locator('#find [data-part="count"]')).to_have_text("3 pictures")
    page.locator("#strip button").nth(2).click()
    expect(page.locator("#faces")).not_to_contain_text("Ada / Lovelace")
    page.locator("#strip button").nth(1).click()
    expect(page.locator("#faces")).to_contain_text("Ada / Lovelace")
    page.get_by_label("By person").check()
    expect(page.locator("#faces .group").first).to_contain_text("Ada / Lovelace 2 faces on 2 pictures")

    page.get_by_role("tab", name="People").click()
    page.get_by_role("button", name="Delete Ada / Lovelace").click()
    page.get_by_role("button", name="Delete Ada / Lovelace").click()
    expect(page.locator("#people-title")).to_have_text("0 people, 0 faces")
    expect(page.locator("#people")).to_be_focused()
    page.get_by_role("tab", name="Find").click()
    expect(page.locator("#faces")).not_to_contain_text("Ada / Lovelace")
    assert visited.complaints == []
    assert visited.strangers == []


def test_a_running_camera_names_who_it_sees(
    browser: Browser, chromium_path: str, gallery_server: Server, pairs: list[list[tuple[str, bytes]]], tmp_path: Path
) -> None:
    """Chromium takes a file for its camera: a photograph of somebody who was enrolled by another one."""
    faces = f"{gallery_server.url}/v1/collections/people/persons/ada/faces"
    httpx.post(f"{gallery_server.url}/v1/collections", json={"name": "people"}).raise_for_status()
    httpx.post(faces, files={"file": pairs[0][0]}, data={"name": "Ada"}, timeout=60).raise_for_status()
    film = tmp_path / "film.mjpeg"
    film.write_bytes(pairs[0][1][1])
    filming = browser.browser_type.launch(
        executable_path=chromium_path, args=[*SWITCHES, f"--use-file-for-fake-video-capture={film}"]
    )
    page = filming.new_page()
    page.goto(gallery_server.url)
    expect(page.get_by_role("tab", name="People")).to_be_visible()
    page.click("#find-camera")
    page.get_by_label("Look while the camera runs").check()
    expect(page.locator("#camera-seen")).to_have_text("Ada")
    page.keyboard.press("Escape")
    expect(page.locator("#find-camera")).to_be_focused()
    filming.close()
    httpx.delete(f"{gallery_server.url}/v1/collections/people").raise_for_status()
