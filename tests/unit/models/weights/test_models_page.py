"""docs/models.md says of every model what its registry entry says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jetface.heads.families import FAMILIES
from jetface.models.weights import packs_of
from jetface.registry import default_registry_dir, read_registry, read_spec
from tests.support.shared import REPOSITORY

PAGE = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")
REGISTRY = read_registry([default_registry_dir()])
ROWS = {
    cells[0].strip("`"): cells
    for line in PAGE.splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split(" | ")]]
}


def test_every_model_has_a_row() -> None:
    assert ROWS.keys() == REGISTRY.keys()


@pytest.mark.parametrize("name", REGISTRY)
def test_a_row_says_what_the_entry_says(name: str) -> None:
    """Task, licence, and the name to pull it by."""
    spec = REGISTRY[name]
    _, task, licence, pull, accuracy, cost = ROWS[name]
    assert task == spec.task
    if spec.non_commercial:
        assert licence == "non-commercial"
    else:
        assert licence == ("none stated" if spec.license.startswith("None stated") else spec.license)
    if spec.packs:
        assert tuple(re.findall(r"`([^`]+)`", pull)) == spec.packs
    elif spec.download:
        assert pull == "by its name"
    else:
        assert pull == ("comes with jetface" if name.startswith("starter_") else "a mirror only")
    assert accuracy
    assert cost


def test_every_family_is_named() -> None:
    families = next(line for line in PAGE.splitlines() if line.startswith("Families:"))
    assert set(re.findall(r"`(\w+)`", families)) == set(FAMILIES)


def test_the_commands_name_packs_that_exist() -> None:
    pulled = re.findall(r"jetface models pull (\w+)", PAGE)
    assert pulled
    assert set(pulled) <= packs_of(REGISTRY).keys()


def test_the_example_is_an_entry(tmp_path: Path) -> None:
    """As it stands: AdaFace, fed BGR."""
    path = tmp_path / "adaface_ir50.toml"
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    path.write_text(example, encoding="utf-8")
    spec = read_spec(path)
    assert spec.input.channel_order == "bgr"
    assert spec.packs == ("mine",)
