"""What docs/api.md and docs/migrate.md show, executed as it stands there against a service on another port."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.fakes import Harness
from tests.support.pictures import read_image
from tests.support.server import PLATES_ON, Server, running_server
from tests.support.shared import REPOSITORY

ADDRESS = "localhost:18080"
PAGES = [REPOSITORY / "docs" / name for name in ("api.md", "migrate.md")]


@dataclass(frozen=True)
class Example:
    """One command, with what its page says of it."""

    language: str
    text: str

    @property
    def route(self) -> str:
        """The path it calls."""
        found = re.search(rf"{ADDRESS}(/[a-z_/]*)", self.text)
        assert found is not None, self.text
        return found[1]


def examples() -> list[Example]:
    """Every command of a `sh` block, and every `python` block."""
    found = []
    for page in PAGES:
        for language, block in re.findall(r"```(sh|python)\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL):
            commands = re.findall(r"^[^#\n].*", block, flags=re.MULTILINE) if language == "sh" else [block]
            found += [Example(language, command) for command in commands]
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def server(weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with all that the pages show switched on."""
    with running_server(tmp_path_factory.mktemp("server"), {**weights, **PLATES_ON}) as started:
        yield started


@pytest.fixture(scope="module")
def folder(shared_images: Path, traffic: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader stands: beside two pictures."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(shared_images / "t1.jpg", folder)
    (folder / "traffic.jpg").write_bytes(traffic)
    return folder


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.route)
def test_the_example_works(example: Example, server: Server, folder: Path) -> None:
    """It answers, and without an error; a picture route has found what the picture shows."""
    text = example.text.replace(ADDRESS, str(httpx.URL(server.url).netloc, "ascii"))
    program = ["bash", "-euo", "pipefail", "-c"] if example.language == "sh" else [sys.executable, "-c"]
    done = subprocess.run([*program, text], cwd=folder, capture_output=True, timeout=60, check=True)
    if " -o " in text:
        drawn = read_image(folder / text.rpartition(" -o ")[2].strip())
        assert drawn is not None
    elif example.language == "python":
        assert float(done.stdout) > 0.5
    elif example.route == "/metrics":
        assert b"# HELP" in done.stdout
    else:
        answer = json.loads(done.stdout)
        assert "error" not in answer
        pictures = answer.get("data", answer.get("pictures"))
        if pictures is not None:
            what = "plates" if example.route == "/plates" else "faces"
            assert all(picture["status"] == "ok" and picture[what] for picture in pictures)


def test_every_route_has_an_example() -> None:
    """Also those that nobody needs to be told of: a reader copies before reading."""
    shown = {example.route for example in EXAMPLES}
    missing = Harness().app.openapi()["paths"].keys() - shown
    # /models/x answers one entry of /models; the last is /multipart/draw_detections under another name.
    of_a_model = {f"/models/{{name}}{action}" for action in ("", "/load", "/unload", "/reload")}
    # Those of the gallery are on a page of their own.
    missing = {path for path in missing if not path.startswith("/v1/")}
    assert missing == {*of_a_model, "/draw_detections"}


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every file a page points to is there, and every heading."""
    for target, _, heading in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]*))?\)", page.read_text("utf-8")):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), target
        if heading and found.suffix == ".md":
            text = found.read_text("utf-8")
            headings = re.findall(r"^#+ (.*)", text, flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
            assert heading in anchors | set(re.findall(r'<a id="([\w-]+)">', text)), heading
