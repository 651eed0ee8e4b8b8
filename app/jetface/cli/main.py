"""The `jetface` command: one group, one module a command, imported when the command is run."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from jetface import __commit__, __version__
from jetface.device.checks import STARTUP_FAILURE
from jetface.errors import ServiceError, told
from jetface.logs import masked
from jetface.registry import RegistryError
from jetface.settings import SettingsError


class _Misconfigured(click.ClickException):
    exit_code = 2


class _WouldNotStart(click.ClickException):
    exit_code = STARTUP_FAILURE


COMMANDS = {
    "serve": "Serve over HTTP.",
    "extract": "Find and embed the faces of pictures.",
    "plates": "Find and read the licence plates of pictures.",
    "embed": "Embed the faces of pictures into one file: Parquet, CSV, JSON lines or NumPy.",
    "bulk": "Embed the faces of millions of pictures, on one machine or many.",
    "find": "Find a person in a folder of pictures.",
    "group": "Group the faces of a folder of pictures by person.",
    "gallery": "People and their faces: enrol, search, back up.",
    "models": "What the registry knows, and where its weights are.",
    "engine": "TensorRT engines: built ahead, listed, checked.",
    "bench": "Measure how fast this machine is.",
    "evaluate": "Measure how well recognizers tell your people apart.",
    "doctor": "Examine this machine for what the service needs.",
    "settings": "Show the settings that are in force.",
    "errors": "Document every error.",
}
"""Each command with its line in `jetface --help`; its module, `jetface.cli.NAME`, has a command of that name."""


EXTRAS = {"embed": "parquet", "bulk": "bulk", "find": "parquet", "group": "parquet"}
"""What commands need beside the base install, as `jetface[EXTRA]` brings it."""


class OneLineErrors(click.Group):
    """A group whose errors end in one line on stderr: exit code 2 for settings, 1 for the rest.

    For commands that start the service, or say whether it would start, a bad setting is one reason more why it does
    not: exit code 3.
    """

    def invoke(self, ctx: click.Context) -> Any:  # noqa: D102 - click's
        try:
            return super().invoke(ctx)
        except (SettingsError, RegistryError) as cause:
            is_start = ctx.invoked_subcommand in {"serve", "doctor"}
            raise (_WouldNotStart if is_start else _Misconfigured)(masked(str(cause))) from cause
        except ServiceError as cause:
            raise click.ClickException(masked(told(cause))) from cause


class _LazyGroup(OneLineErrors):
    """A group that imports a command when it is run: models' libraries take a second, and `--help` needs none."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        try:
            command: click.Command = getattr(import_module(f"jetface.cli.{cmd_name}"), cmd_name)
        except ImportError as cause:
            extra = EXTRAS.get(cmd_name)
            if extra is None or (cause.name or "").partition(".")[0] not in {"fsspec", "pyarrow", "ray"}:
                raise
            raise click.ClickException(
                f"`jetface {cmd_name}` needs {cause.name}: pip install 'jetface[{extra}]'"
            ) from cause
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message=f"%(prog)s, version %(version)s (commit {__commit__})", prog_name="jetface")
def main() -> None:
    """Find and recognize faces: a service, and its tools.

    Every command is configured by the environment variables that `jetface settings` lists.
    """
    _fill_streams()


def _fill_streams() -> None:
    """Put the null device where a stream was closed: what is opened next would get its number, and what it is sent."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the least number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False, encoding="utf-8"))  # noqa: SIM115
