"""`jetface bench`: how fast this machine is, by each backend that it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jetface.cli.bench_cases import CASES
from jetface.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jetface.cli.bench_cases import Outcome

MANY_CALLERS = 4


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[PATH]...")
@click.option(
    "--case", "cases", multiple=True, type=click.Choice(list(CASES)),
    help="Backend and precision; may be repeated. Default: all that can be had here.",
)  # fmt: skip
@click.option(
    "--callers", type=click.IntRange(1, 256), default=MANY_CALLERS, show_default=True,
    help="Callers at once, beside a measurement with one.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, help="Length of a measurement."
)
@click.option(
    "--build-timeout", "build_timeout_s", type=click.FloatRange(1), default=3600.0, show_default=True,
    help="Longest wait for models to be downloaded and engines to be built, seconds.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of Markdown.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, writable=True, path_type=Path), metavar="FILE",
    help="Draw pictures/s and latencies, as the file's ending says; needs matplotlib.",
)  # fmt: skip
@click.option("--measure", type=click.Choice(list(CASES)), hidden=True, help="Measure one case in this process.")
def bench(
    *,
    paths: tuple[Path, ...],
    cases: Sequence[str],
    callers: int,
    seconds: float,
    build_timeout_s: float,
    as_json: bool,
    plot: Path | None,
    measure: str | None,
) -> None:
    """Measure the pipeline on pictures, files or folders; drawn ones where none are named.

    From the bytes of a file to embeddings, without HTTP: decoding, copies and queues included. Each case runs in a
    process of its own, so that memory is its own and a crash ends that case alone. Exit code 1 when none could be run.
    """
    from jetface.cli.bench_cases import run_cases  # noqa: PLC0415 - beside the next: not for `--help`
    from jetface.cli.bench_report import draw_plot, machine, to_markdown  # noqa: PLC0415 - as above

    settings = read_settings()
    if measure is not None:
        from jetface.cli.benching import measure_case  # noqa: PLC0415 - brings all that models need

        click.echo(json.dumps(measure_case(settings, paths, callers, seconds, build_timeout_s)))
        return
    outcomes: list[Outcome] = run_cases(
        cases or list(CASES), paths, callers=callers, seconds=seconds, build_timeout_s=build_timeout_s
    )
    here = machine()
    if as_json:
        click.echo(json.dumps({"machine": here, "cases": [outcome.as_dict() for outcome in outcomes]}, indent=2))
    else:
        click.echo("\n".join(to_markdown(here, outcomes)))
    if plot is not None:
        draw_plot(outcomes, plot)
    if not any(outcome.figures for outcome in outcomes):
        raise SystemExit(1)
