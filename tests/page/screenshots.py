"""Take the pictures of the page that the documentation shows: `python -m tests.page.screenshots`.

The people on them are drawn by code. Weights come from `MODEL_MIRROR` or `MODELS_DIR`, as the service finds them.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, sync_playwright

from tests.support.drawn import PEOPLE, Picture, draw_group, draw_portrait, encode
from tests.support.server import running_server
from tests.support.shared import REPOSITORY

FOLDER = REPOSITORY / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
_NUM_COLORS = 256
"""Few enough for a small file, enough for soft shades."""


def main() -> None:
    """Start the service, visit it, write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    variables = {name: os.environ[name] for name in ("MODEL_MIRROR", "MODELS_DIR") if name in os.environ}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), variables) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        # The first request loads the models; its timings would show little else.
        _find(_open(browser, server.url, width_px=1180, height_px=760))
        for name, dark in (("page", False), ("page-dark", True)):
            page = _open(browser, server.url, width_px=1180, height_px=760, dark=dark)
            _find(page)
            _write(page, name)
        page = _open(browser, server.url, width_px=390, height_px=844)
        _find(page)
        _write(page, "page-phone")
        page = _open(browser, f"{server.url}/#compare", width_px=1000, height_px=720)
        _compare(page)
        _write(page, "page-compare")
        browser.close()


def _open(browser: Browser, url: str, *, width_px: int, height_px: int, dark: bool = False) -> Page:
    page = browser.new_page(viewport={"width": width_px, "height": height_px}, color_scheme="dark" if dark else "light")
    page.goto(url)
    return page


def _find(page: Page) -> None:
    page.set_input_files("#find-files", _file("drawn.png", encode(draw_group())))
    page.locator(".face").nth(len(PEOPLE) - 1).wait_for()
    page.mouse.move(0, 0)
    _settle(page)


def _compare(page: Page) -> None:
    person = PEOPLE[0]
    elsewhere = _tilted(draw_portrait(person._replace(wall=(160, 190, 205), shirt=(70, 80, 150))))
    page.set_input_files("#slot-0 input", _file("drawn.png", encode(draw_portrait(person))))
    page.set_input_files("#slot-1 input", _file("drawn-elsewhere.png", encode(elsewhere)))
    page.locator("#verdict").wait_for()
    _settle(page)


def _tilted(picture: Picture) -> Picture:
    """Return a picture a little darker, smaller and askew, as the next one of a person would be."""
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 9, 0.9)
    darker = cv2.convertScaleAbs(picture, alpha=0.8)
    turned = cv2.warpAffine(darker, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(turned, np.uint8)


def _file(name: str, content: bytes) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def _settle(page: Page) -> None:
    page.locator("#state-text", has_text="Ready").wait_for()
    page.wait_for_timeout(500)


def _write(page: Page, name: str) -> None:
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    few = shot.quantize(_NUM_COLORS, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
    few.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
