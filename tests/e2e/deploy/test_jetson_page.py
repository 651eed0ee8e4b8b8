"""docs/jetson.md: what is known of a board, and from where."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.support.shared import REPOSITORY

PAGE = REPOSITORY.joinpath("docs/jetson.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[list[str]]:
    """Cells of a table, without its head; a bar that is escaped is part of its cell."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_it_starts_in_five_commands() -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", section("Start"), re.DOTALL)
    assert len(block.splitlines()) == 5


def test_every_symptom_has_a_meaning_and_a_way_out() -> None:
    found = rows(section("Troubleshooting"))
    assert len(found) > 12
    for cells in found:
        assert len(cells) == 3
        assert all(cells), cells[0]


@pytest.mark.parametrize("program", ["verify.sh", "compare_images.sh", "fleet.sh"])
def test_options_that_are_named_exist(program: str) -> None:
    """Where a page names an option of a script of ours, its text has it."""
    text = REPOSITORY.joinpath("deploy/jetson", program).read_text(encoding="utf-8")
    for line in PAGE.splitlines():
        for option in re.findall(rf"{re.escape(program)} (--[a-z-]+)", line):
            assert option in text


def test_options_of_the_verification_exist() -> None:
    done = subprocess.run(
        [str(REPOSITORY / "deploy/jetson/verify.sh"), "--help"], capture_output=True, text=True, check=True
    )
    for option in re.findall(r"`(--[a-z-]+)", section("Verify")):
        assert option in done.stdout
