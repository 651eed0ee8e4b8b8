"""docs/errors.md is what the tree of errors says."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from jetface.cli.errors import error_catalogue, error_classes
from jetface.cli.main import main
from jetface.errors import ServiceError
from tests.support.shared import REPOSITORY

OURS = [kind for kind in error_classes() if kind.__module__ == "jetface.errors"]


def test_the_document_is_what_the_tree_says() -> None:
    """`make docs` writes it anew."""
    written = CliRunner().invoke(main, ["errors"])
    assert written.output == (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", OURS)
def test_every_error_says_what_to_do(kind: type[ServiceError]) -> None:
    """In words of its own."""
    assert "remedy" in vars(kind)
    assert f"| `{kind.code}` | " in error_catalogue()


@pytest.mark.parametrize("kind", OURS)
def test_the_api_page_knows_every_code_a_client_meets(kind: type[ServiceError]) -> None:
    """A page that lists most of them misleads."""
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    operators = {"backend_unavailable", "engine_build", "engine_load"}
    abstract = {"overloaded", "model_unavailable", "backend_error"} | operators
    assert kind.code in abstract or f"`{kind.code}`" in page
