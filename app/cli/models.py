"""`jetface models`: what the registry knows, where its weights are, and under which licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from app.cli.quiet import configure_quiet_logs
from app.errors import ModelFileError
from app.settings import read_settings
from app.specs import ModelSpec

if TYPE_CHECKING:
    from app.models.files import WeightsFolder


@click.group()
def models() -> None:
    """List the models of the registry, verify their weights, or download them."""


@models.command("list")
def list_models() -> None:
    """Show every registry entry: where its weights are, and their licence."""
    registry, weights = _open()
    width = max(map(len, registry))
    for name, spec in sorted(registry.items()):
        click.echo(f"{name:<{width}}  {spec.task:<11}  {_where(spec, weights):<8}  {spec.license}")


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def verify(names: tuple[str, ...]) -> None:
    """Check weights against their checksum: those named, or all that are here."""
    registry, weights = _open()
    here = tuple(name for name, spec in sorted(registry.items()) if weights.is_at_hand(spec))
    _locate_each(names or here, registry, replace(weights, fetcher=None))


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def pull(names: tuple[str, ...]) -> None:
    """Put weights into MODELS_DIR now rather than on the first request; what is here already stays."""
    from app.models.download import Fetcher  # noqa: PLC0415 - as in `_open`

    registry, weights = _open()
    _locate_each(names, registry, replace(weights, fetcher=Fetcher()))


def _open() -> tuple[Mapping[str, ModelSpec], WeightsFolder]:
    from app.service import open_weights  # noqa: PLC0415 - brings all that serving needs: not for `jetface --help`

    settings = read_settings()
    configure_quiet_logs(settings)
    return open_weights(settings)


def _locate_each(names: tuple[str, ...], registry: Mapping[str, ModelSpec], weights: WeightsFolder) -> None:
    """Say where the verified weights of each model are; fail at the end when some could not be had."""
    unknown = [name for name in names if name not in registry]
    if unknown:
        raise click.UsageError(f"not in the registry: {', '.join(unknown)}; see `jetface models list`")
    num_failed = sum(not _locate(registry[name], weights) for name in names)
    if num_failed:
        raise click.ClickException(f"{num_failed} of {len(names)} models cannot be used")


def _locate(spec: ModelSpec, weights: WeightsFolder) -> bool:
    try:
        click.echo(f"{spec.name}: {weights.locate(spec)}")
    except ModelFileError as error:
        click.echo(error.message, err=True)
        return False
    return True


def _where(spec: ModelSpec, weights: WeightsFolder) -> str:
    if weights.is_at_hand(spec):
        return "here"
    return "download" if spec.download else "missing"
