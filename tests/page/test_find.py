"""Find: pictures in by every way, faces drawn, chosen, compared; the same request as a line for a shell."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Visit
from tests.support.server import Server

_PIXELS = "canvas => canvas.toDataURL()"


def test_a_dropped_picture_shows_its_six_faces(visited: Visit, t1: tuple[str, bytes]) -> None:
    """Boxes on the picture, a card with crop and score for each face, words for those who hear the page."""
    page = visited.page
    visited.drop("#find", t1)
    expect(page.locator(".face")).to_have_count(6)
    expect(page.get_by_role("img", name="t1.jpg: 6 faces")).to_be_visible()
    expect(page.locator("#caption")).to_contain_text("1280 \N{MULTIPLICATION SIGN} 886")
    expect(page.locator("#live")).to_contain_text("t1.jpg: 6 faces found in")
    for card in page.locator(".face").all():
        assert card.locator("img").evaluate("image => image.naturalWidth") == 112
        assert 0.6 <= float(card.locator(".face-top .num").inner_text()) <= 1


def test_boxes_landmarks_and_scores_are_drawn(visited: Visit, t1: tuple[str, bytes]) -> None:
    """Each switch changes the picture; a threshold above all scores leaves it bare."""
    page, canvas = visited.page, visited.page.locator("#canvas")
    visited.drop("#find", t1)
    expect(page.locator(".face")).to_have_count(6)
    drawn = [canvas.evaluate(_PIXELS)]
    for switch in ("#show-landmarks", "#show-scores"):
        page.uncheck(switch)
        drawn.append(canvas.evaluate(_PIXELS))
    page.locator("#threshold").press("End")
    expect(page.locator(".face")).to_have_count(0)
    expect(page.locator("#faces")).to_contain_text("No face reaches this score")
    drawn.append(canvas.evaluate(_PIXELS))
    assert len(set(drawn)) == len(drawn)


def test_a_lower_threshold_asks_again(visited: Visit, t1: tuple[str, bytes]) -> None:
    """Faces that were below the old threshold come from the service; the shell's line follows."""
    page = visited.page
    visited.drop("#find", t1)
    expect(page.locator(".face")).to_have_count(6)
    page.locator("#threshold").press("End")
    expect(page.locator("#json")).to_contain_text('"faces": []')
    page.locator("#threshold").fill("0.6")
    page.locator("#threshold").dispatch_event("change")
    expect(page.locator(".face")).to_have_count(6)
    expect(page.locator("#curl")).to_contain_text("threshold=0.60")


def test_a_chosen_face_sorts_all_others(visited: Visit, pairs: list[list[tuple[str, bytes]]]) -> None:
    """On all pictures: the same person's comes first and is marked, as its picture is; the keyboard stays with it."""
    page = visited.page
    folders = [[(f"{number}.jpg", content) for number, (_, content) in enumerate(person, 1)] for person in pairs]
    visited.drop("#find", folders[1][0], *folders[0])
    expect(page.locator(".thumb")).to_have_count(3)
    expect(page.locator('#find [data-part="count"]')).to_have_text("3 pictures")
    thumb = page.locator(".thumb").nth(1)
    page.locator(".thumb").nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(thumb).to_have_attribute("aria-current", "true")
    expect(thumb).to_be_focused()
    page.locator(".face").first.click()
    expect(page.locator(".face").first).to_have_attribute("aria-pressed", "true")
    notes = [note.split() for note in page.locator(".thumb .note").all_inner_texts()]
    assert [note[0] for note in notes] == ["alike", "1", "match"]
    assert float(notes[2][1]) > float(notes[0][1])
    page.get_by_label("All pictures").focus()
    page.keyboard.press("Space")
    cards = page.locator("#faces li")
    expect(cards).to_have_count(3)
    expect(cards.nth(0)).to_contain_text("chosen")
    expect(cards.nth(1)).to_contain_text("match 0.")
    expect(cards.nth(2)).to_contain_text("alike")
    expect(page.locator("#faces-hint")).to_contain_text("1 of 2 other faces matches, from 0.30 up.")
    cards.nth(2).locator(".face").focus()
    page.keyboard.press("Enter")
    expect(cards.nth(0).locator(".face")).to_be_focused()
    expect(page.locator("#caption")).to_contain_text("1.jpg")

    page.get_by_label("By person").check()
    groups = page.locator("#faces .group")
    expect(groups).to_have_count(2)
    expect(groups.nth(0)).to_contain_text("Person 1 2 faces on 2 pictures")
    expect(groups.nth(1)).to_contain_text("Seen once 1 face")

    page.get_by_role("button", name="Clear all").click()
    expect(page.get_by_role("heading", name="Drop pictures here")).to_be_visible()
    expect(page.locator("#find-choose")).to_be_focused()
    expect(page.locator("#faces li")).to_have_count(0)


def test_a_folder_is_walked(visited: Visit, pairs: list[list[tuple[str, bytes]]], tmp_path: Path) -> None:
    """Chosen or dropped: its pictures are looked at; equal names tell their folders, and what is no picture is left."""
    page = visited.page
    for person, pictures in zip(("ada", "bob"), pairs, strict=True):
        folder = tmp_path / "people" / person
        folder.mkdir(parents=True)
        folder.joinpath("1.jpg").write_bytes(pictures[0][1])
        folder.joinpath(f"{person}.png").write_bytes(pictures[1][1])
        folder.joinpath("notes.txt").write_text("no picture")
    names = ["ada/1.jpg", "ada.png", "bob/1.jpg", "bob.png"]
    page.locator("#find-folder").set_input_files(tmp_path / "people")
    expect(page.locator(".thumb-name")).to_have_text(names)
    page.get_by_role("button", name="Clear all").click()
    place = {"x": 400, "y": 400}
    data = {"items": [], "files": [str(tmp_path / "people")], "dragOperationsMask": 1}
    devtools = page.context.new_cdp_session(page)
    for step in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": step, **place, "data": data})
    expect(page.locator(".thumb-name")).to_have_text(names)
    expect(page.locator('#find [data-part="count"]')).to_have_text("4 pictures")
    expect(page.locator("#find-errors")).to_be_empty()
    expect(page.locator("#curl")).to_contain_text("people/ada/1.jpg")


def test_a_crowd_on_a_phone(visit: Callable[..., Visit], server: Server, shared_images: Path) -> None:
    """The picture stays in sight when the last of 85 cards is chosen."""
    page = visit(f"{server.url}/", width_px=390, height_px=844).page
    page.locator("#find-files").set_input_files(shared_images / "ifrest_lumia.jpg")
    expect(page.locator(".face")).to_have_count(85)
    last = page.locator(".face").nth(84)
    last.scroll_into_view_if_needed()
    last.click()
    expect(page.locator("#canvas")).to_be_in_viewport(ratio=1)
    expect(page.locator(".face").first).to_contain_text("Face 85")
    expect(page.locator(".face").first).to_be_focused()


def test_a_phone_has_scores_and_whole_words(visit: Callable[..., Visit], server: Server, t1: tuple[str, bytes]) -> None:
    """Scores are drawn on small boxes; one box tells of many files, its button is one line, and focus goes on."""
    visited = visit(f"{server.url}/", width_px=390, height_px=844)
    page, canvas = visited.page, visited.page.locator("#canvas")
    visited.drop(
        "#find", *[(f"{number}-notes-of-a-very-long-day-in-the-archives.txt", b"none") for number in range(4)], t1
    )
    expect(page.locator(".face")).to_have_count(6)
    drawn = canvas.evaluate(_PIXELS)
    page.uncheck("#show-scores")
    assert canvas.evaluate(_PIXELS) != drawn
    fault = page.get_by_role("alert")
    expect(fault).to_have_count(1)
    expect(fault).to_contain_text("and 2 more: It could not be read.")
    button = fault.get_by_role("button", name="Dismiss")
    box = button.bounding_box()
    assert box is not None
    assert box["height"] < 40
    button.click()
    expect(fault).to_have_count(0)
    expect(page.locator("#find")).to_be_focused()


def test_a_face_is_chosen_on_the_picture(visited: Visit, t1: tuple[str, bytes]) -> None:
    page = visited.page
    visited.drop("#find", t1)
    expect(page.locator(".face")).to_have_count(6)
    canvas = page.locator("#canvas")
    shown = canvas.bounding_box()
    assert shown is not None
    scale = shown["width"] / 1280
    canvas.click(position={"x": 796 * scale, "y": 410 * scale})
    expect(page.locator('.face[aria-pressed="true"]')).to_contain_text("Face 1")


def test_a_pasted_picture_is_looked_at(visited: Visit, t1: tuple[str, bytes]) -> None:
    visited.paste(t1)
    expect(visited.page.locator(".face")).to_have_count(6)


def test_the_camera_takes_a_picture(visited: Visit) -> None:
    """Chromium's test camera shows no face; its picture is looked at all the same."""
    page = visited.page
    page.click("#find-camera")
    page.get_by_role("button", name="Take picture").click()
    expect(page.locator("#caption")).to_contain_text("0 faces")
    expect(page.locator("#caption")).to_contain_text("camera-")
    expect(page.locator("#camera")).to_be_hidden()


def test_what_is_no_picture_is_told_in_words(visited: Visit, t1: tuple[str, bytes]) -> None:
    """The error names the file, can be dismissed, and leaves the picture beside it alone."""
    page = visited.page
    visited.drop("#find", ("notes.txt", b"not a picture"), t1)
    fault = page.get_by_role("alert")
    expect(fault).to_contain_text("notes.txt: It could not be read.")
    expect(page.locator(".face")).to_have_count(6)
    fault.get_by_role("button", name="Dismiss").click()
    expect(fault).to_have_count(0)


def test_an_error_is_in_sight_wherever_the_picture_was_dropped(visited: Visit, t1: tuple[str, bytes]) -> None:
    page = visited.page
    page.set_viewport_size({"width": 390, "height": 600})
    visited.drop("#find", t1)
    expect(page.locator(".face")).to_have_count(6)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    visited.drop("#service", ("notes.txt", b"not a picture"))
    expect(page.get_by_role("alert")).to_be_in_viewport()


def test_a_service_that_is_gone_is_told_in_words(visited: Visit, t1: tuple[str, bytes]) -> None:
    page = visited.page
    expect(page.locator("#version")).to_contain_text("jetface")
    page.context.set_offline(True)
    visited.drop("#find", t1)
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer")
    expect(page.locator("#find-choose")).to_be_visible()
    # The browser itself notes each request that failed.
    visited.complaints[:] = [text for text in visited.complaints if "ERR_INTERNET_DISCONNECTED" not in text]


def test_timings_are_shown_by_stage(visited: Visit, t1: tuple[str, bytes]) -> None:
    page = visited.page
    visited.drop("#find", t1)
    expect(page.locator(".legend")).to_contain_text("detect")
    expect(page.locator(".legend")).to_contain_text("recognize")
    expect(page.locator(".timing-head")).to_contain_text("in the service")
    assert page.locator(".part").count() == page.locator(".legend li").count()


@pytest.mark.parametrize("name", ["t1.jpg", 'it\'s; a "test", $1.jpg'])
def test_the_copied_line_runs_in_a_shell(visited: Visit, t1: tuple[str, bytes], name: str, tmp_path: Path) -> None:
    """Whatever the file's name is, and with the same answer."""
    page = visited.page
    visited.drop("#find", (name, t1[1]))
    expect(page.locator(".face")).to_have_count(6)
    page.locator("#raw summary").click()
    page.locator('[data-copy="curl"]').click()
    expect(page.locator('[data-copy="curl"]')).to_have_text("Copied")
    line = page.evaluate("navigator.clipboard.readText()")
    tmp_path.joinpath(name).write_bytes(t1[1])
    ran = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=True, timeout=30)
    page.locator('[data-copy="json"]').click()
    expect(page.locator('[data-copy="json"]')).to_have_text("Copied")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    boxes = [[face["bbox"] for face in answer["data"][0]["faces"]] for answer in (json.loads(ran.stdout), copied)]
    assert len(boxes[0]) == 6
    assert boxes[0] == boxes[1]


def test_a_removed_picture_is_gone(visited: Visit, t1: tuple[str, bytes]) -> None:
    page = visited.page
    visited.drop("#find", t1)
    expect(page.locator(".face")).to_have_count(6)
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", name="Drop pictures here")).to_be_visible()
    expect(page.locator(".face")).to_have_count(0)
