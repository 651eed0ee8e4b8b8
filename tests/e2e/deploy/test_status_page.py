"""docs/status.md: what is known, from where, and the command that shows it."""

from __future__ import annotations

import re

from tests.support.shared import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGE = (DOCS / "status.md").read_text(encoding="utf-8")
WORDS, CLAIMS = (
    [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, flags=re.MULTILINE)
)
PROGRAMS = r"deploy/|docker |kubectl |jetface |python -m |curl |nvidia-smi|pip install "


def test_every_claim_has_a_status_a_source_and_what_turns_it_into_seen() -> None:
    """What is unverified names a program that tells."""
    assert len(CLAIMS) > 30
    for claim, status, source, how in CLAIMS:
        assert status in {"seen", "computed", "read", "**unverified**"}, claim
        assert source, claim
        assert "`" in how, claim
        if status == "**unverified**":
            assert re.search(rf"`(?:[A-Z_0-9]+=\S+ )*(?:{PROGRAMS})", how), claim


def test_there_is_one_such_table() -> None:
    """No other page keeps a list of its own; settings.md has the words of a setting."""
    for page in DOCS.rglob("*.md"):
        if page.name not in {"status.md", "settings.md"}:
            assert "unverified" not in page.read_text(encoding="utf-8").lower(), page.name


def test_the_words_for_where_a_statement_comes_from_are_used() -> None:
    pages = PAGE + (DOCS / "jetson.md").read_text(encoding="utf-8")
    for word in (word for cells in WORDS for word in re.sub(r"\*", "", cells[0]).split(", ")):
        assert len(re.findall(rf"\b{word}\b", pages, re.IGNORECASE)) > 1, word
