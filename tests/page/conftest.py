"""The page in real Chromium, before the started service with real weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, expect, sync_playwright

from tests.support.server import Server, real_models, running_server

TIMEOUT_MS = 20_000
"""Long, for a busy machine; the first picture loads the models."""

SWITCHES = (
    "--no-sandbox",  # containers and CI run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@dataclass
class Visit:
    """One open page, and what it did that a person would not see."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Console errors and warnings, uncaught exceptions, faults of the content security policy."""
    strangers: list[str] = field(default_factory=list)
    """Addresses on other hosts that were asked for; none was reached."""

    def drop(self, target: str, *files: tuple[str, bytes]) -> None:
        """Drop files on the element that the selector names."""
        self._give(target, "drop", "dataTransfer", files)

    def paste(self, *files: tuple[str, bytes]) -> None:
        """Paste files into the page."""
        self._give("body", "paste", "clipboardData", files)

    def _give(self, target: str, event: str, carrier: str, files: tuple[tuple[str, bytes], ...]) -> None:
        self.page.locator(target).evaluate(
            """(element, { event, carrier, files }) => {
                const transfer = new DataTransfer();
                for (const [name, numbers] of files) transfer.items.add(new File([new Uint8Array(numbers)], name));
                const options = { bubbles: true, cancelable: true, [carrier]: transfer };
                element.dispatchEvent(new (event === "drop" ? DragEvent : ClipboardEvent)(event, options));
            }""",
            {"event": event, "carrier": carrier, "files": [(name, list(content)) for name, content in files]},
        )


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Where Debian's Chromium is; its absence skips, and fails where CI is set."""
    path = shutil.which("chromium")
    if path is None:
        reason = "chromium is not installed: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def weights(shared_models: Path) -> dict[str, str]:
    """Settings of a service that finds real weights in a mirror."""
    return real_models(shared_models)


@pytest.fixture(scope="session")
def server(weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service, open to all."""
    with running_server(tmp_path_factory.mktemp("server"), weights) as started:
        yield started


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Browser]:
    """One browser for a file of tests: its thread runs an event loop, which async tests of other files cannot share."""
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium_path, args=list(SWITCHES))
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Open an address in a browser that knows nothing yet and reaches no host but this one."""
    contexts: list[BrowserContext] = []

    def open_page(
        url: str, *, width_px: int = 1280, height_px: int = 860, dark: bool = False, pixel_ratio: float = 1
    ) -> Visit:
        context = browser.new_context(
            viewport={"width": width_px, "height": height_px},
            color_scheme="dark" if dark else "light",
            device_scale_factor=pixel_ratio,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        context.set_default_timeout(TIMEOUT_MS)
        visited = Visit(context.new_page())
        host = url.split("/")[2]

        def refuse_strangers(route: Route) -> None:
            if route.request.url.split("/")[2] == host:
                route.continue_()
            else:
                visited.strangers.append(route.request.url)
                route.abort()

        def note(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"}:
                visited.complaints.append(message.text)

        context.route(lambda address: address.startswith("http"), refuse_strangers)
        visited.page.on("console", note)
        visited.page.on("pageerror", lambda error: visited.complaints.append(str(error)))
        visited.page.goto(url)
        return visited

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def visited(visit: Callable[..., Visit], server: Server) -> Iterator[Visit]:
    """The page, which must neither complain nor ask another host."""
    page = visit(f"{server.url}/")
    yield page
    assert page.complaints == []
    assert page.strangers == []


@pytest.fixture(scope="session")
def t1(shared_images: Path) -> tuple[str, bytes]:
    """A picture of six people."""
    return "t1.jpg", shared_images.joinpath("t1.jpg").read_bytes()


@pytest.fixture(scope="session")
def pairs(shared_faces: Path) -> list[list[tuple[str, bytes]]]:
    """Two pictures each of two people."""
    people = sorted(folder for folder in shared_faces.iterdir() if folder.is_dir())[:2]
    return [[(path.name, path.read_bytes()) for path in sorted(folder.iterdir())[:2]] for folder in people]
