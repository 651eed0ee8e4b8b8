"""docs/deploy.md, docs/jetson.md and docs/scale.md speak of what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jetface.settings import Settings, variable_names
from tests.support.dockerfiles import Dockerfile
from tests.support.shared import REPOSITORY

PAGES = [REPOSITORY / "docs" / name for name in ("deploy.md", "jetson.md", "scale.md")]
DEPLOY = PAGES[0].read_text(encoding="utf-8")
OURS = r"\b(?:JETFACE|COMPOSE)_[A-Z_]+\b"

WRITTEN_LATER = frozenset({"deploy/jetson/verify.sh"})
"""Named as the one command that verifies; not a link before it is there."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)]*)\)", text)
    for link in links:
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", each).lower().replace(" ", "-") for each in headings}, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_settings_named_in_passing_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = set(re.findall(r"\b(deploy/[\w./-]+\.(?:sh|yaml|cpu|gpu|slim|jp7))\b", text))
    assert {name for name in files - WRITTEN_LATER if not (REPOSITORY / name).exists()} == set()
    known = {name for field in Settings.model_fields for name in variable_names(field)}
    for image in (
        "Dockerfile.jetson",
        "deploy/jetson/Dockerfile.slim",
        "deploy/jetson/Dockerfile.jp7",
        "deploy/Dockerfile.cpu",
        "deploy/Dockerfile.gpu",
    ):
        dockerfile = Dockerfile.read(REPOSITORY / image)
        known |= set(dockerfile.environment())
        for stage in dockerfile.stages:
            known |= {each.value.partition("=")[0] for each in stage.instructions if each.name == "ARG"}
    known |= {
        "VARIANT",
        "BASE_IMAGE",
        "CONFIG_IP_NF_RAW",
        "RAY_AUTH_MODE",
        "DOCKER_INSECURE_NO_IPTABLES_RAW",
        "NVIDIA_DISABLE_REQUIRE",
    }
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z0-9]+)+\b", text)) - set(re.findall(OURS, text))
    assert named - known == set()


def test_what_compose_reads_is_in_the_table() -> None:
    """Every `${...}` of the compose files, with the default they give it."""
    documented = dict(re.findall(r"^\| `(JETFACE_\w+)` \| (.*?) \|", DEPLOY, re.MULTILINE))
    used: dict[str, set[str]] = {}
    for path in (REPOSITORY / "deploy").glob("compose.*.yaml"):
        for name, default in re.findall(r"\$\{(JETFACE_\w+):-([^}]*)\}", path.read_text(encoding="utf-8")):
            used.setdefault(name, set()).add(default)
    assert documented.keys() == used.keys()
    for name, defaults in used.items():
        for default in defaults:
            assert default.removeprefix("jetface") in documented[name]
