"""Every `jetface` command that a page shows is one the program understands, with variables that it reads."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from jetface.cli.main import main
from jetface.settings import Settings, variable_names
from tests.support.shared import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "clients/python/README.md"]
PAGES += sorted((REPOSITORY / "docs").rglob("*.md"))
VARIABLES = {name for field in Settings.model_fields for name in variable_names(field)}


def commands() -> list[str]:
    """What stands in blocks for a shell, and between backquotes."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = "".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
        found += [line for line in blocks.splitlines() if re.search(r"(^|[ /])jetface ", line.partition("#")[0])]
        found += re.findall(r"`((?:[A-Z_]+=\S* )*(?:\.venv/bin/)?jetface [a-z][^`]*)`", text.replace("\n", " "))
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_the_program_understands_it(command: str) -> None:
    """Names and options; whether the folders of an example are there is not asked."""
    # In a container the service is called as the program is.
    in_container = r"^docker compose (exec( -T)?|run --rm --entrypoint jetface) jetface "
    words = shlex.split(
        re.sub(in_container, "jetface ", command).replace("jetface jetface ", "jetface "), comments=True
    )
    while (variable := words[0].partition("="))[1]:
        assert variable[0] in VARIABLES
        words.pop(0)
    assert words.pop(0).rpartition("/")[2] == "jetface"
    found: click.Command = main
    # The group's own settings: a command remembers the names of its help option from the first context it meets.
    context = click.Context(main, **main.context_settings)
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        subcommand = found.get_command(context, name)
        assert subcommand is not None, name
        found, context = subcommand, click.Context(subcommand, parent=context, info_name=name)
    found.make_parser(context).parse_args(words)


def test_there_are_some() -> None:
    assert len(commands()) > 10
