"""The steps of `deploy/jetson/verify.sh`, which starts and stops the service around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from jetface.cli.main import OneLineErrors
from jetface.cli.quiet import configure_quiet_logs
from jetface.settings import Settings, read_settings
from verifying.answers import compare_answers
from verifying.caller import Target
from verifying.claims import read_claims
from verifying.draining import load_until_stopped
from verifying.drawing import pictures_of
from verifying.engine_check import check_engines
from verifying.facts import read_facts
from verifying.report import write_report
from verifying.soak import soak as run_soak
from verifying.speed import measure_speed
from verifying.starting import wait_until_serving


@click.group(cls=OneLineErrors)
@click.option("--url", help="The service; default: the port that PORT says, on this machine.")
@click.option("--api-key", envvar="JETFACE_API_KEY", help="Default: the first of API_KEYS.")
@click.pass_context
def verify(context: click.Context, *, url: str | None, api_key: str | None) -> None:
    """Hold a running service to what our documents say; each step prints one JSON object.

    deploy/jetson/verify.sh runs all of them and writes one report; see docs/jetson.md.
    """
    context.obj = (url, api_key)


@verify.command()
@click.option("--timeout", "timeout_s", type=click.FloatRange(1), default=3600.0, show_default=True, help="Seconds.")
@click.pass_obj
def start(given: tuple[str | None, str | None], *, timeout_s: float) -> None:
    """Wait until the service answers and its engines are built; tell how long each took."""
    _tell(wait_until_serving(_target(given)[0], timeout_s))


@verify.command()
@click.option(
    "--golden", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER",
    help="Pictures of yours instead of drawn ones; golden.json in it may say which faces they show.",
)  # fmt: skip
@click.pass_obj
def answers(given: tuple[str | None, str | None], *, golden: Path | None) -> None:
    """Compare answers with ONNX Runtime's on the CPU, by the same models and settings."""
    target, settings = _target(given)
    _tell(compare_answers(target, settings, golden))


@verify.command()
def engines() -> None:
    """Compare the engines that are kept with ONNX Runtime, as `jetface engine check` does."""
    _tell(check_engines())


@verify.command()
@click.option("--requests", "num_requests", type=click.IntRange(1), default=50, show_default=True, help="Of each kind.")
@click.pass_obj
def speed(given: tuple[str | None, str | None], *, num_requests: int) -> None:
    """Measure one caller with one face and with a crowd, over HTTP."""
    _tell(measure_speed(_target(given)[0], num_requests))


@verify.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True)
@click.option("--callers", "num_callers", type=click.IntRange(1, 256), default=4, show_default=True)
@click.option("--pictures", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER")
@click.pass_obj
def soak(given: tuple[str | None, str | None], *, minutes: float, num_callers: int, pictures: Path | None) -> None:
    """Load the service steadily and follow its memory, heat and clocks."""
    _tell(run_soak(_target(given)[0], pictures_of(pictures), seconds=60 * minutes, num_callers=num_callers))


@verify.command()
@click.option("--seconds", type=click.FloatRange(1), default=60.0, show_default=True, help="Longest wait for a stop.")
@click.option("--callers", "num_callers", type=click.IntRange(1, 256), default=4, show_default=True)
@click.pass_obj
def drain(given: tuple[str | None, str | None], *, seconds: float, num_callers: int) -> None:
    """Load the service while somebody else stops it; "under load" on stderr says when."""
    target, _ = _target(given)
    found = load_until_stopped(
        target,
        seconds=seconds,
        num_callers=num_callers,
        on_first_answer=lambda: click.echo("under load", err=True),
    )
    _tell(found)


@verify.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(*, folder: Path) -> None:
    """Write the report on what the steps left in FOLDER; exit code 1 when a claim failed."""
    page, is_good = write_report(read_claims(), read_facts(folder))
    click.echo(page, nl=False)
    if not is_good:
        raise SystemExit(1)


def _target(given: tuple[str | None, str | None]) -> tuple[Target, Settings]:

    settings = read_settings()
    configure_quiet_logs(settings)
    url, api_key = given
    key = api_key or next((each.get_secret_value() for each in settings.api_keys), None)
    return Target(url or f"http://127.0.0.1:{settings.port}", key), settings


def _tell(facts: dict[str, Any]) -> None:
    click.echo(json.dumps(facts))
