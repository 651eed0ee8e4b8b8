"""`jetface evaluate`: how well recognizers tell people apart, on the caller's own pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

from jetface.cli.quiet import configure_quiet_logs
from jetface.settings import read_settings


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--models", "names", metavar="A,B,...", help="Recognizers, by name; default: the one that serves.")
@click.option(
    "--rotations", type=click.Choice(["none", "auto"]), default="none", show_default=True,
    help="auto: look at pictures without a sure face in their other three quarter turns, too.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of Markdown.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, writable=True, path_type=Path), metavar="FILE",
    help="Draw true against false matches, and similarities, as the file's ending says; needs matplotlib.",
)  # fmt: skip
def evaluate(
    *, folder: Path, names: str | None, rotations: Literal["none", "auto"], as_json: bool, plot: Path | None
) -> None:
    """Judge recognizers on pictures of people you know: FOLDER holds a folder for each person.

    Every picture is compared with every other by its largest face, as `/compare` takes it. Prints how often the most
    similar other picture is of the same person (rank-1), how many pairs of one person are found at a false-match rate
    (TAR), where false matches and misses are equal (EER), faces that were missed, thresholds for your pictures, speed.
    """
    from jetface.cli.evaluating import draw_plot, evaluate_models, to_markdown  # noqa: PLC0415 - not for `--help`

    settings = read_settings()
    configure_quiet_logs(settings)
    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else []
    evaluation = evaluate_models(settings, folder, wanted, rotations)
    if as_json:
        click.echo(json.dumps(evaluation.as_dict(), indent=2))
    else:
        click.echo("\n".join(to_markdown(evaluation)))
    if plot is not None:
        draw_plot(evaluation, plot)
