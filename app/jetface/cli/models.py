"""`jetface models`: the registry, weights and licences; entries written from what an ONNX file says of itself."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from pydantic import ValidationError

from jetface.atomic import whole_file
from jetface.cli.convert import convert, quantize
from jetface.cli.quiet import configure_quiet_logs
from jetface.errors import ModelFileError, ServiceError
from jetface.graphs.exports import channels_first
from jetface.graphs.parts import GraphError, GraphParts, data_files, read_data, shape_of, take_apart
from jetface.graphs.prepare import prepare_graph
from jetface.heads.families import FAMILIES, entry_fault
from jetface.models.download import Fetcher
from jetface.models.weights import LicenseRecord, WeightsFolder, expand, packs_of
from jetface.registry import (
    DATA_FILE_PATTERN,
    NAME_PATTERN,
    ModelSpec,
    Registry,
    RegistryError,
)
from jetface.runtimes.onnx import open_onnx_backends
from jetface.service import open_weights
from jetface.settings import Settings, read_settings

_PROBE_SIDE_PX = 128
"""Side of the canvas on which a detector of free size is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the caller says of a model; None where the graph or the family's habit says it."""

    family: str | None
    name: str | None
    license: str
    non_commercial: bool
    source: str | None
    mean: float | None
    std: float | None
    channel_order: str | None
    box_enlargement: float | None
    score_threshold: float | None
    match_threshold: float | None
    labels: str | None
    """Commas between them."""
    activation: str | None
    alphabet: str | None
    pad: str


def add_model(settings: Settings, file: Path, wanted: Wanted) -> None:
    """Write the entry of a model into MODELS_DIR, and copy its files there when they are elsewhere.

    Raises:
        click.ClickException: It cannot be added; the message names all that is missing or wrong.
    """
    registry, _ = open_weights(settings)
    folder = settings.models_dir
    name = wanted.name or file.stem
    faults = list(_name_faults(name, registry, folder))
    try:
        serialized = file.read_bytes()
        data = read_data(serialized, file.parent)
        parts = channels_first(take_apart(serialized, data))
    except (GraphError, OSError) as cause:
        raise _refusal(file, [*faults, *_family_faults(wanted), f"{file.name}: {cause}"]) from cause
    below = [part for part in data if not re.fullmatch(DATA_FILE_PATTERN, part)]
    faults += [f"{part}: weights in a folder below the file's are not taken; export them beside it" for part in below]
    is_there = file.parent.resolve() == folder.resolve()
    entry: dict[str, Any] = {
        "name": name,
        "license": wanted.license,
        "source": wanted.source or f"{file.name}, added by `jetface models add`",
        "non_commercial": wanted.non_commercial,
        "sha256": hashlib.sha256(serialized).hexdigest(),
        "file": file.name if is_there and file.name != f"{name}.onnx" else None,
        "data": [
            {"file": part, "sha256": hashlib.sha256(content).hexdigest()}
            for part, content in data.items()
            if part not in below
        ],
    }
    copies = {} if is_there else {folder / part: file.parent / part for part in data}
    if not is_there and _is_name(name):  # the system may refuse to look for a file of what is none
        copies[folder / f"{name}.onnx"] = file
    faults += [
        f"{target.name}: another file of that name is in MODELS_DIR"
        for target, source in copies.items()
        if target.exists() and target.read_bytes() != source.read_bytes()
    ]
    faults += _family_faults(wanted)
    outputs: list[str] = []
    if wanted.family:
        faults += _describe(entry, wanted, wanted.family, parts, outputs)
        faults += _fit_faults(entry, file)
    if faults:
        raise _refusal(file, faults)
    spec = ModelSpec.model_validate(_without_none(entry))
    _write(spec, outputs, copies, folder)
    _tell(spec, wanted, outputs, folder)


def _refusal(file: Path, faults: Sequence[str]) -> click.ClickException:
    lines = "".join(f"\n  {fault}" for fault in faults)
    return click.ClickException(f"{file.name} is not added:{lines}")


def _name_faults(name: str, registry: Registry, folder: Path) -> Iterator[str]:
    if not _is_name(name):
        yield f"--name: {name!r} is no name: up to 64 letters, digits, `.`, `_` and `-`, the first no sign"
    elif name in registry or name in registry.unreadable or (folder / f"{name}.toml").exists():
        yield f"--name: there is a model {name} already; give it another"


def _is_name(name: str) -> bool:
    return bool(re.fullmatch(NAME_PATTERN, name)) and len(name) <= 64


def _family_faults(wanted: Wanted) -> Iterator[str]:
    if wanted.family is None:
        yield f"--family: which kind of model it is; one of {', '.join(FAMILIES)}"


def _describe(entry: dict[str, Any], wanted: Wanted, name: str, parts: GraphParts, outputs: list[str]) -> Iterator[str]:
    """Add to an entry what the graph and the family say, and to `outputs` what it answers; yield what is missing."""
    family = FAMILIES[name]
    usual = family.usual_input
    shape = shape_of(parts.inputs[0]) if len(parts.inputs) == 1 else None
    sides_px = [usual.height_px, usual.width_px]
    if shape and len(shape) == 4:
        sides_px = [length or side for length, side in zip(shape[2:], sides_px, strict=True)]
    entry |= {
        "task": family.task,
        "family": name,
        "input": {
            "height_px": sides_px[0],
            "width_px": sides_px[1],
            "mean": usual.mean if wanted.mean is None else wanted.mean,
            "std": usual.std if wanted.std is None else wanted.std,
            "channel_order": wanted.channel_order or usual.channel_order,
        },
        "box_enlargement": wanted.box_enlargement,
        "score_threshold": wanted.score_threshold,
        "match_threshold": wanted.match_threshold,
        "labels": tuple(label.strip() for label in wanted.labels.split(",")) if wanted.labels else None,
        "activation": wanted.activation,
        "alphabet": wanted.alphabet,
        "pad": wanted.pad if wanted.alphabet else None,
    }
    if "labels" in family.needs and not wanted.labels:
        yield "--labels: the classes its numbers stand for, in their order, comma between them"
    if "alphabet" in family.needs and not wanted.alphabet:
        yield "--alphabet: the characters of a slot, in the order of its numbers"
    if "box_enlargement" in family.needs and wanted.box_enlargement is None:
        yield "--box-enlargement: how many times as wide and high as the box the picture is that it wants"
        entry["box_enlargement"] = 1.0  # so that the graph can be looked at all the same
    try:
        answers = _answers(parts, [side or _PROBE_SIDE_PX for side in sides_px])
    except ServiceError:
        # What is wrong with its input or outputs is said by `_fit_faults`, in words of the entry.
        answers = []
        if "embedding_length" in family.needs:
            declared = shape_of(parts.outputs[0]) or ()
            entry["embedding_length"] = next((length for length in declared[1:] if length), 1)
    told = [f"{end.name} {list(found)}" for end, found in zip(parts.outputs, answers, strict=False)]
    outputs += told or [end.name for end in parts.outputs]
    if "slots" in family.needs and answers:
        entry["slots"] = answers[0][1]
    if "embedding_length" in family.needs and answers:
        entry["embedding_length"] = answers[0][1] if len(answers[0]) > 1 else 1


def _answers(parts: GraphParts, sides_px: Sequence[int]) -> list[tuple[int, ...]]:
    """Run the graph on one grey picture; return the shapes of what it answers."""
    model = parts.replace(outputs=parts.outputs).assemble()
    for end in model.graph.output:
        end.type.tensor_type.ClearField("shape")
    with closing(open_onnx_backends(model.SerializeToString())[0]) as backend:
        return [output.shape for output in backend.run(np.zeros((1, 3, *sides_px), np.float32))]


def _fit_faults(entry: Mapping[str, Any], file: Path) -> Iterator[str]:
    """Yield what keeps a graph from being served by an entry: it is prepared, opened and run as a service does."""
    draft = {**_without_none(entry)}
    if not _is_name(draft["name"]):
        draft["name"] = "model"
    try:
        spec = ModelSpec.model_validate(draft)
    except ValidationError as cause:
        for fault in cause.errors():
            yield f"{'.'.join(map(str, fault['loc'])) or 'entry'}: {fault['msg']}"
        return
    misfit = entry_fault(spec)
    if misfit is not None:
        yield misfit
        return
    try:
        graph = prepare_graph(file, spec)
        with closing(open_onnx_backends(graph.model)[0]) as backend:
            probed = FAMILIES[spec.family].probe(spec, backend, graph.input_hw)
            probed.head.run(backend, [probed.probe_item])
    except ServiceError as error:
        yield error.message


def _without_none(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}


def _write(spec: ModelSpec, outputs: Sequence[str], copies: Mapping[Path, Path], folder: Path) -> None:
    text = _toml(spec, outputs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target, source in copies.items():
            if not target.exists():
                with source.open("rb") as original, whole_file(target) as copy:
                    shutil.copyfileobj(original, copy)
        with whole_file(folder / f"{spec.name}.toml") as file:
            file.write(text.encode())
    except OSError as cause:
        raise click.ClickException(f"{folder} cannot be written: {cause.strerror}") from cause


def _toml(spec: ModelSpec, outputs: Sequence[str]) -> str:
    """Return an entry as TOML: what differs from the defaults, tables last."""
    fields = spec.model_dump(exclude_defaults=True)
    size, data = fields.pop("input"), fields.pop("data", ())
    lines = [f"# One picture is answered with {', '.join(outputs)}."]
    lines += [f"{key} = {_value(value)}" for key, value in fields.items()]
    lines += ["", "[input]", *(f"{key} = {_value(value)}" for key, value in size.items())]
    for part in data:
        lines += ["", "[[data]]", *(f"{key} = {_value(value)}" for key, value in part.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    # A string of TOML is one of JSON, but for a character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _tell(spec: ModelSpec, wanted: Wanted, outputs: Sequence[str], folder: Path) -> None:
    size = spec.input
    canvas = f"{size.width_px}x{size.height_px}" if size.height_px else "any size"
    assumed = [
        option
        for option, value in (("--mean", wanted.mean), ("--std", wanted.std), ("--channel-order", wanted.channel_order))
        if value is None
    ]
    click.echo(folder / f"{spec.name}.toml")
    click.echo(f"takes {canvas}, {size.channel_order.upper()}, (pixel - {size.mean:g}) / {size.std:g}")
    click.echo(f"answers {', '.join(outputs)}")
    if assumed:
        click.echo(f"As is usual for {spec.family}, where the graph does not tell: {', '.join(assumed)}.")
    click.echo(f"Serve it: {FAMILIES[spec.family].variable}={spec.name} jetface serve")


@click.group()
def models() -> None:
    """List the models of the registry, add yours, verify weights, download them, or make them FP16 or INT8."""


models.add_command(convert)
models.add_command(quantize)


@models.command("list")
def list_models() -> None:
    """Show every registry entry (its task, where its weights are, its licence), then the packs."""
    registry, weights = _open()
    record = LicenseRecord(weights.folder)
    width, task_width = max(map(len, registry)), max(len(spec.task) for spec in registry.values())
    for name, spec in sorted(registry.items()):
        accepted = " [accepted]" if spec.non_commercial and not record.asks(spec) else ""
        click.echo(f"{name:<{width}}  {spec.task:<{task_width}}  {_where(spec, weights):<8}  {spec.license}{accepted}")
    click.echo("\nPacks, for `jetface models pull`:")
    for pack, names in packs_of(registry).items():
        click.echo(f"{pack:<{width}}  {', '.join(names)}")


@models.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE.onnx")
@click.option("--family", type=click.Choice(tuple(FAMILIES)), help="Which kind of model it is.")
@click.option("--name", help="Default: that of the file.")
@click.option("--license", default="Not stated", show_default=True, help="What its makers allow.")
@click.option("--non-commercial", is_flag=True, help="They forbid commercial use.")
@click.option("--source", help="Who made it, and where it is published.")
@click.option("--mean", type=float, help="Subtracted from pixels; default: as usual for the family.")
@click.option("--std", type=float, help="Pixels are divided by it; default: as usual for the family.")
@click.option("--channel-order", type=click.Choice(["rgb", "bgr"]), help="Default: as usual for the family.")
@click.option("--box-enlargement", type=float, help="Of one that sees no aligned crop: its picture by the box.")
@click.option("--score-threshold", type=float, help="Of a detector: its default threshold.")
@click.option("--match-threshold", type=float, help="Of a recognizer: least similarity of one person.")
@click.option("--labels", help="Of a classifier: its classes in the order of its numbers, comma between them.")
@click.option("--alphabet", help="Of a reader of plates: the characters of a slot, in the order of its numbers.")
@click.option("--pad", default="_", show_default=True, help="That of slots behind the text.")
@click.option("--activation", type=click.Choice(["softmax", "none"]), help="Of a classifier: none for probabilities.")
def add(file: Path, **options: Any) -> None:
    """Add a model of yours: write its registry entry into MODELS_DIR, and copy the file there.

    Checksums, input, embedding length and outputs are read from the graph, which is run once. All that is missing or
    wrong is told at once, and nothing is written then.
    """
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
    registry, weights = _open()
    specs = _expand(names, registry)
    weights = replace(weights, fetcher=Fetcher())
    _settle_licenses(specs, weights, target, is_accepted=accept_license)
    _locate_each(specs, weights.locate if target is None else lambda spec: _export(weights, spec, target))


def _open() -> tuple[Mapping[str, ModelSpec], WeightsFolder]:

    settings = read_settings()
    configure_quiet_logs(settings)
    return open_weights(settings)


def _expand(names: Sequence[str], registry: Mapping[str, ModelSpec]) -> list[ModelSpec]:

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
