"""The shape of the code: importing does nothing, layers are complete and drawn as they are."""

from __future__ import annotations

import sys

from tests.support.shared import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY / "app").with_suffix("").parts).removesuffix(".__init__")
    for path in (REPOSITORY / "app" / "jetface").rglob("*.py")
    if path.name != "_version.py"  # the build's, and not in every checkout
)


def layers() -> list[list[str]]:
    """The layers that import-linter enforces, highest first."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    contract = next(contract for contract in contracts if contract["type"] == "layers")
    return [layer.split(" | ") for layer in contract["layers"]]


def test_the_diagram_is_the_contract() -> None:
    """The import diagram of docs/architecture.md shows the layers of pyproject.toml, in order."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    diagram = page.split("<!-- layers:begin -->")[1].split("<!-- layers:end -->")[0]
    rows = [line.split("#")[0] for line in diagram.splitlines() if line.startswith("  ")]
    drawn = [sorted(cell.strip() for cell in row.split("|")) for row in rows]
    assert drawn == [sorted(name.removeprefix("jetface.") for name in layer) for layer in layers()]


def test_every_module_has_a_layer() -> None:
    """A new top-level module must say where it stands."""
    placed = {name for layer in layers() for name in layer}
    found = {name for name in MODULES if name.count(".") == 1}
    assert found == placed
