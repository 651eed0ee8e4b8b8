"""For everybody: by keyboard alone, read aloud, in the dark, on a phone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import FilePayload, Page, expect

from tests.page.conftest import Visit
from tests.support.server import Server

_GRAVE = {"serious", "critical"}


def _grave_faults(page: Page) -> list[tuple[str, str]]:
    """Run axe-core and list what it calls serious or critical."""
    found = Axe().run(page).response
    assert found["passes"], "axe-core looked at nothing"
    return [
        (fault["id"], node["html"])
        for fault in found["violations"]
        if fault["impact"] in _GRAVE
        for node in fault["nodes"]
    ]


def _overflow_px(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.mark.parametrize(
    ("width_px", "dark"), [pytest.param(1280, False, id="light"), pytest.param(360, True, id="dark-phone")]
)
def test_every_state_is_accessible_and_fits(
    visit: Callable[..., Visit],
    server: Server,
    t1: tuple[str, bytes],
    pairs: list[list[tuple[str, bytes]]],
    width_px: int,
    *,
    dark: bool,
) -> None:
    """Empty, with an error, with faces and one chosen, with a crowd of settings open, comparing, photographing."""
    visited = visit(f"{server.url}/", width_px=width_px, dark=dark)
    page = visited.page

    def check() -> None:
        assert _grave_faults(page) == []
        assert _overflow_px(page) <= 0

    expect(page.locator("#version")).to_contain_text("jetface")
    check()
    visited.drop("#find", t1, *pairs[0], ("a-file-with-a-name-that-is-far-too-long-for-a-phone.txt", b"no picture"))
    expect(page.locator(".face")).to_have_count(6)
    expect(page.get_by_role("alert")).to_be_visible()
    page.locator(".face").first.click()
    page.locator("#raw summary").click()
    page.locator("#models summary").click()
    check()
    page.locator(".thumb").nth(1).click()
    page.locator(".face").first.click()
    page.get_by_label("By person").check()
    expect(page.locator(".is-match.face")).to_be_visible()
    check()
    page.get_by_role("tab", name="Compare").click()
    check()
    visited.drop("#slot-0", pairs[0][0], pairs[0][1])
    expect(page.locator("#verdict")).to_be_visible()
    page.locator("#compare-raw summary").click()
    check()
    page.get_by_role("tab", name="Find").click()
    page.click("#find-camera")
    expect(page.get_by_role("button", name="Take picture")).to_be_enabled()
    check()
    assert visited.complaints == []


def test_the_dark_is_dark(visit: Callable[..., Visit], server: Server) -> None:
    """The reader's own setting decides: ink and paper change places."""

    def brightness(*, dark: bool) -> tuple[int, int]:
        page = visit(f"{server.url}/", dark=dark).page
        paper, ink = page.evaluate(
            """['backgroundColor', 'color'].map((name) =>
                getComputedStyle(document.body)[name].match(/\\d+/g).reduce((sum, part) => sum + Number(part), 0))"""
        )
        return paper, ink

    light_paper, light_ink = brightness(dark=False)
    dark_paper, dark_ink = brightness(dark=True)
    assert min(light_paper, dark_ink) > 600
    assert max(dark_paper, light_ink) < 200


def test_the_keyboard_is_enough(visited: Visit, t1: tuple[str, bytes]) -> None:
    """Tab goes through the page in reading order; Enter chooses a file and a face, arrows change tabs and threshold."""
    page = visited.page
    # Asked for early: the browser takes a moment to hand its file dialogs over.
    page.on("filechooser", lambda _chooser: None)
    expect(page.locator("#version")).to_contain_text("jetface")

    def tab_to(name: str, *, most: int = 12) -> None:
        """Press Tab until the focus is on what is called so."""
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.innerText || document.activeElement.id").startswith(name):
                return
        pytest.fail(f"Tab does not reach {name!r}")

    tab_to("Skip", most=1)
    tab_to("Find", most=1)
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Compare")).to_be_focused()
    expect(page.get_by_role("tabpanel")).to_contain_text("First picture")
    page.keyboard.press("ArrowLeft")
    tab_to("Choose pictures", most=2)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([FilePayload(name=t1[0], mimeType="image/jpeg", buffer=t1[1])])
    expect(page.locator(".face")).to_have_count(6)
    tab_to("threshold")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#threshold-value")).to_have_text("0.61")
    expect(page.locator("#curl")).to_contain_text("threshold=0.61")
    tab_to("Face 1")
    page.keyboard.press("Enter")
    expect(page.locator(".face").first).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".face").first).to_be_focused()
    tab_to("Face", most=1)
    assert "alike" in page.evaluate("document.activeElement.innerText")


def test_escape_closes_the_camera(visited: Visit) -> None:
    """The focus goes back to the button that opened it."""
    page = visited.page
    page.locator("#find-camera").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Take picture")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#camera")).to_be_hidden()
    expect(page.locator("#find-camera")).to_be_focused()
