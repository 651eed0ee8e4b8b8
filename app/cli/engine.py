"""`jetface engine`: plans built ahead of a start, listed, compared again, removed."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def engine() -> None:
    """Build, list, check and remove engines: models compiled for this machine's GPU."""


@engine.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.option("--job", type=click.Path(path_type=Path), hidden=True, help="Do what a job file says, for the service.")
def build(names: tuple[str, ...], *, job: Path | None) -> None:
    """Build the engines of the models named, or of those the settings choose."""
    if job is not None:
        from app.logs import configure_logs  # noqa: PLC0415 - as below
        from app.models.engine_build import run_job_file  # noqa: PLC0415 - heavy, and not for `jetface --help`

        configure_logs("WARNING", "text")
        run_job_file(job)
        return
    del names
