"""Compare: two pictures side by side."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from tests.page.conftest import Visit


def test_two_pictures_of_a_person(visited: Visit, pairs: list[list[tuple[str, bytes]]]) -> None:
    """The similarity is shown, and the words follow the threshold without asking again."""
    page = visited.page
    page.get_by_role("tab", name="Compare").click()
    visited.drop("#slot-0", pairs[0][0])
    visited.drop("#slot-1", pairs[0][1])
    expect(page.locator("#verdict-text")).to_have_text("Probably the same person.")
    assert 0.35 < float(page.locator("#similarity").inner_text()) <= 1
    expect(page.locator("#match-value")).to_have_text("0.30")
    expect(page.locator("#verdict-note")).to_contain_text("one pair of two people in 10,000")
    expect(page.locator("#live")).to_contain_text("Similarity")
    page.locator("#match").press("End")
    expect(page.locator("#verdict-text")).to_have_text("Probably two people.")
    expect(page.locator("#compare-timings .part").first).to_be_visible()


def test_two_people(visited: Visit, pairs: list[list[tuple[str, bytes]]]) -> None:
    """Two pictures dropped at once fill both places."""
    page = visited.page
    page.get_by_role("tab", name="Compare").click()
    visited.drop("#slot-0", pairs[0][0], pairs[1][0])
    expect(page.locator("#verdict-text")).to_have_text("Probably two people.")


def test_what_cannot_be_compared_is_told(visited: Visit, t1: tuple[str, bytes], shared_images: Path) -> None:
    """No face, and no picture, are told beneath the picture they are true of; another picture mends it."""
    page = visited.page
    page.goto(f"{page.url}#compare")
    page.reload()
    visited.drop("#slot-0", t1)
    visited.drop("#slot-1", ("notes.txt", b"not a picture"))
    expect(page.locator("#slot-1")).to_contain_text("It could not be read.")
    expect(page.locator("#verdict")).to_be_hidden()
    page.locator("#slot-1 input").set_input_files(shared_images / "t1.jpg")
    expect(page.locator("#similarity")).to_have_text("1.00")
