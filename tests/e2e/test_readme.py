"""What the README says works, executed as it stands there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jetface.models.defaults import starter_notice
from jetface.models.weights import expand
from jetface.registry import default_registry_dir, read_registry
from tests.support.server import Server, service_environ
from tests.support.shared import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)


def test_the_curl_example_finds_the_faces(server: Server, shared_images: Path, tmp_path: Path) -> None:
    """Copied from the README, run beside a picture, against a service on another port."""
    (example,) = (command for command in COMMANDS if "curl" in command)
    assert "127.0.0.1:18080" in example
    shutil.copy(shared_images / "t1.jpg", tmp_path / "photo.jpg")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example.replace("http://127.0.0.1:18080", server.url)],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=True,
    )
    (picture,) = json.loads(done.stdout)["data"]
    assert len(picture["faces"]) == 6


def test_the_targets_exist() -> None:
    """`make` knows every target the README and CONTRIBUTING name, and `make help` explains it."""
    pages = README + (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", pages, flags=re.MULTILINE))
    help_text = subprocess.run(
        ["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=True
    ).stdout
    explained = set(re.findall(r"make (\S+)", help_text))
    assert {"run", "test", "check", "help"} <= named
    assert named <= explained


def test_the_cli_example_finds_faces(weights: dict[str, str], shared_images: Path, tmp_path: Path) -> None:
    """`jetface extract` on a folder, as the README shows it: a JSON line a picture, and the pictures drawn."""
    (example,) = re.findall(r"`\.venv/bin/(jetface extract [^`]*)`", README)
    (tmp_path / "photos").mkdir()
    shutil.copy(shared_images / "t1.jpg", tmp_path / "photos")
    done = subprocess.run(
        example.split(), cwd=tmp_path, env=service_environ(weights), capture_output=True, timeout=60, check=True
    )
    assert len(json.loads(done.stdout)["faces"]) == 6
    assert (tmp_path / "drawn" / "t1.jpg").exists()


def test_what_is_to_be_pulled_is_there_to_pull() -> None:
    """Every `jetface models pull` of any page, and of the service's own notice, names packs or models."""
    registry = read_registry([default_registry_dir()])
    page_folder = REPOSITORY / "app" / "jetface" / "page" / "assets"
    texts = [
        README,
        starter_notice(("starter_det",)) or "",
        *(path.read_text("utf-8") for path in page_folder.glob("*.js")),
    ]
    texts += [path.read_text("utf-8") for path in (REPOSITORY / "docs").glob("*.md")]
    found = [line for text in texts for line in re.findall(r"jetface models pull ([^`\n#\"&]+)", text)]
    assert len(found) >= 4
    for line in found:
        words = re.sub(r"--to \S+", "", line).split()
        assert expand([word for word in words if not word.startswith("-")], registry), line


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    """Every file the README points to is there."""
    assert (REPOSITORY / link).exists()
