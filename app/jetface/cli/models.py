"""`jetface models`: what the registry knows, where its weights are, and under which licence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from jetface.cli.convert import convert, quantize
from jetface.cli.quiet import configure_quiet_logs
from jetface.errors import ModelFileError
from jetface.registry import Family, ModelSpec, RegistryError
from jetface.settings import read_settings

if TYPE_CHECKING:
    from jetface.models.weights import WeightsFolder


@click.group()
def models() -> None:
    """List the models of the registry, add yours, verify weights, download them, or make them FP16 or INT8."""


models.add_command(convert)
models.add_command(quantize)


@models.command("list")
def list_models() -> None:
    """Show every registry entry (its task, where its weights are, its licence), then the packs."""
    from jetface.models.weights import LicenseRecord, packs_of  # noqa: PLC0415 - as in `_open`

    registry, weights = _open()
    record = LicenseRecord(weights.folder)
    width = max(map(len, registry))
    for name, spec in sorted(registry.items()):
        accepted = " [accepted]" if spec.non_commercial and not record.asks(spec) else ""
        click.echo(f"{name:<{width}}  {spec.task:<11}  {_where(spec, weights):<8}  {spec.license}{accepted}")
    click.echo("\nPacks, for `jetface models pull`:")
    for pack, names in packs_of(registry).items():
        click.echo(f"{pack:<{width}}  {', '.join(names)}")


@models.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE.onnx")
@click.option("--family", type=click.Choice(get_args(Family)), help="Which kind of model it is.")
@click.option("--name", help="Default: that of the file.")
@click.option("--license", default="Not stated", show_default=True, help="What its makers allow.")
@click.option("--non-commercial", is_flag=True, help="They forbid commercial use.")
@click.option("--source", help="Who made it, and where it is published.")
@click.option("--mean", type=float, help="Subtracted from pixels; default: as usual for the family.")
@click.option("--std", type=float, help="Pixels are divided by it; default: as usual for the family.")
@click.option("--channel-order", type=click.Choice(["rgb", "bgr"]), help="Default: as usual for the family.")
@click.option("--box-enlargement", type=float, help="Of a liveness model: its picture by the box.")
@click.option("--score-threshold", type=float, help="Of a detector: its default threshold.")
@click.option("--match-threshold", type=float, help="Of a recognizer: least similarity of one person.")
def add(file: Path, **options: Any) -> None:
    """Add a model of yours: write its registry entry into MODELS_DIR, and copy the file there.

    Checksums, input, embedding length and outputs are read from the graph, which is run once. All that is missing or
    wrong is told at once, and nothing is written then.
    """
    from jetface.cli.adding import Wanted, add_model  # noqa: PLC0415 - as in `_open`

    settings = read_settings()
    configure_quiet_logs(settings)
    add_model(settings, file, Wanted(**options))


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def verify(names: tuple[str, ...]) -> None:
    """Check weights against their checksum: those of the models and packs named, or all that are here."""
    registry, weights = _open()
    here = tuple(name for name, spec in sorted(registry.items()) if weights.is_at_hand(spec))
    _locate_each(_expand(names or here, registry), replace(weights, fetcher=None).locate)


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--accept-license", is_flag=True,
    help="Say yes to the licences that forbid commercial use. Asked for once: it is recorded beside the weights.",
)  # fmt: skip
@click.option(
    "--to", "target", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Put a copy of each here instead: a folder to carry to another machine, for its MODEL_MIRROR.",
)  # fmt: skip
def pull(names: tuple[str, ...], *, accept_license: bool, target: Path | None) -> None:
    """Put weights into MODELS_DIR now rather than on the first request; what is here already stays.

    NAME is a model or a pack. Their licences are shown.
    """
    from jetface.models.download import Fetcher  # noqa: PLC0415 - as in `_open`

    registry, weights = _open()
    specs = _expand(names, registry)
    weights = replace(weights, fetcher=Fetcher())
    _settle_licenses(specs, weights, target, is_accepted=accept_license)
    _locate_each(specs, weights.locate if target is None else lambda spec: _export(weights, spec, target))


def _open() -> tuple[Mapping[str, ModelSpec], WeightsFolder]:
    from jetface.service import open_weights  # noqa: PLC0415 - brings all that serving needs: not for `jetface --help`

    settings = read_settings()
    configure_quiet_logs(settings)
    return open_weights(settings)


def _expand(names: Sequence[str], registry: Mapping[str, ModelSpec]) -> list[ModelSpec]:
    from jetface.models.weights import expand  # noqa: PLC0415 - as in `_open`

    try:
        return expand(names, registry)
    except RegistryError as cause:
        raise click.UsageError(str(cause)) from cause


def _settle_licenses(
    specs: Sequence[ModelSpec], weights: WeightsFolder, target: Path | None, *, is_accepted: bool
) -> None:
    """Show the licences of what is about to be fetched or copied; go on only when all are accepted, now or before.

    Weights that are here already are not asked about, unless they are to be carried elsewhere.
    """
    from jetface.models.weights import LicenseRecord  # noqa: PLC0415 - as in `_open`

    record = LicenseRecord(weights.folder)
    coming = [spec for spec in specs if target or not weights.is_at_hand(spec)]
    for text in dict.fromkeys(spec.license for spec in coming):
        click.echo(f"{', '.join(spec.name for spec in coming if spec.license == text)}: {text}", err=True)
    asking = [spec for spec in coming if record.asks(spec)]
    if asking and not is_accepted:
        raise click.ClickException(
            "these licences forbid commercial use: run the command again with --accept-license if you accept them for "
            f"{', '.join(spec.name for spec in asking)}; nothing was fetched"
        )
    if asking:
        record.accept(asking)
    if target:
        # The record travels with the weights.
        carried = LicenseRecord(target)
        if missing := [spec for spec in coming if carried.asks(spec)]:
            carried.accept(missing)


def _export(weights: WeightsFolder, spec: ModelSpec, target: Path) -> Path:
    """Copy a model for another machine, and refuse one of which a part would stay here."""
    from jetface.graphs.parts import GraphError, data_files  # noqa: PLC0415 - as in `_open`

    path = weights.export(spec, target)
    try:
        unnamed = set(data_files(path.read_bytes())) - {part.file for part in spec.data}
    except (GraphError, OSError) as cause:
        raise ModelFileError(f"{spec.name}: {path} cannot be used: {cause}.") from cause
    if unnamed:
        raise ModelFileError(
            f"{spec.name}: the model keeps weights in {', '.join(sorted(unnamed))}, which its registry entry does not "
            "name and which were not copied: add [[data]] with file and sha256."
        )
    return path


def _locate_each(specs: Sequence[ModelSpec], locate: Callable[[ModelSpec], Path]) -> None:
    """Say where the verified weights of each model are; fail at the end when some could not be had."""
    num_failed = sum(not _locate(spec, locate) for spec in specs)
    if num_failed:
        raise click.ClickException(f"{num_failed} of {len(specs)} models cannot be used")


def _locate(spec: ModelSpec, locate: Callable[[ModelSpec], Path]) -> bool:
    try:
        click.echo(f"{spec.name}: {locate(spec)}")
    except ModelFileError as error:
        click.echo(error.message, err=True)
        return False
    return True


def _where(spec: ModelSpec, weights: WeightsFolder) -> str:
    if weights.is_at_hand(spec):
        return "here"
    return "download" if spec.download else "missing"
