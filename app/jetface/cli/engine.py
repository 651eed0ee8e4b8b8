"""`jetface engine`: plans built ahead of a start, listed, compared again, removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from jetface.engines.job import EngineSource

# What the commands do is imported when they do it: `jetface --help` need not pay for it.


@click.group()
def engine() -> None:
    """Build, list, check and remove engines: models compiled for this machine's GPU."""


@engine.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.option("--job", type=click.Path(path_type=Path), hidden=True, help="Do what a job file says, for the service.")
@click.option("--parent", type=int, default=0, hidden=True, help="Number of the process to end with.")
@click.pass_obj
def build(source: EngineSource | None, names: tuple[str, ...], *, job: Path | None, parent: int) -> None:
    """Build the engines of the models named, or of those the settings choose, unless they are there already.

    Each is built and checked in a process of its own; minutes for a large model.
    """
    if job is not None:
        from jetface.engines.build import run_job_file  # noqa: PLC0415 - see above
        from jetface.logs import configure_logs  # noqa: PLC0415 - see above

        configure_logs("WARNING", "text")
        run_job_file(job, parent)
        return
    from jetface.cli.engine_work import build_engines  # noqa: PLC0415 - see above

    build_engines(names, source)


@engine.command("list")
@click.pass_obj
def list_engines(source: EngineSource | None) -> None:
    """Show the engines that are kept: age, size, build time, check, and whether each fits this machine or why not."""
    from jetface.cli.engine_work import list_plans  # noqa: PLC0415 - see above

    list_plans(source)


@engine.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.pass_obj
def check(source: EngineSource | None, names: tuple[str, ...]) -> None:
    """Compare engines that are kept with ONNX Runtime in FP32; those of the models named, or that the settings choose.

    Exit code 1 when one is missing, does not open or does not agree.
    """
    from jetface.cli.engine_work import check_engines  # noqa: PLC0415 - see above

    check_engines(names, source)


@engine.command()
@click.option("--older-than", "days", type=click.FloatRange(min=0), metavar="DAYS", help="Those as well, fit or not.")
@click.option("--yes", is_flag=True, help="Remove them; without it they are only named.")
@click.pass_obj
def prune(source: EngineSource | None, *, days: float | None, yes: bool) -> None:
    """Remove engines that are of no use here: damaged ones, and those for another device or version."""
    from jetface.cli.engine_work import prune_plans  # noqa: PLC0415 - see above

    prune_plans(source, older_than_days=days, is_meant=yes)
