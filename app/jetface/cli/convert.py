"""`jetface models convert` and `quantize`: a model in FP16 or INT8, judged before it is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from jetface import __version__
from jetface.atomic import write_with_sidecar
from jetface.cli.evaluate import count_pairs
from jetface.cli.pictures import Picture, find_pictures
from jetface.cli.quiet import configure_quiet_logs
from jetface.device.limits import usable_cores
from jetface.domain import Crop, Image
from jetface.errors import RequestError
from jetface.graphs.half import FULL_SUMS
from jetface.imaging.decode import Decoder
from jetface.imaging.formats import sniff
from jetface.judging.agreement import FP16, Agreement, DetectionAgreement, Pictures
from jetface.judging.casting import Cast, Caster, find_faces
from jetface.judging.drawings import draw_pictures
from jetface.models.defaults import ModelChooser
from jetface.models.weights import WeightsFolder
from jetface.registry import ModelSpec
from jetface.runtimes.providers import runtime_version
from jetface.service import open_weights
from jetface.settings import Settings, read_settings

Row = Sequence[str]


@dataclass(frozen=True, slots=True)
class FolderPictures:
    """The pictures of a folder, decoded anew at each call; what cannot be read is named on stderr once."""

    folder: Path
    max_pixels: int
    _decoder: Decoder = field(default_factory=Decoder.best)
    _unreadable: set[Path] = field(default_factory=set)

    def __call__(self) -> Iterator[Image]:
        """Yield (H, W, 3) uint8 BGR pictures in order of name."""
        for picture in find_pictures([self.folder]):
            if picture.path in self._unreadable:
                continue
            try:
                data = picture.path.read_bytes()
                yield self._decoder.decode(data, sniff(data, max_pixels=self.max_pixels))
            except (OSError, RequestError) as error:
                self._unreadable.add(picture.path)
                reason = error.message if isinstance(error, RequestError) else error.strerror
                click.echo(f"{picture.path} is left out: {reason}", err=True)

    def readable(self) -> list[Picture]:
        """Return the pictures that the last call yielded."""
        return [picture for picture in find_pictures([self.folder]) if picture.path not in self._unreadable]


def convert_model(settings: Settings, name: str, out: Path, folder: Path | None) -> None:
    """Cast a model, print what it was judged by, and write it.

    Args:
        settings: Say where weights are, and which detector finds the faces for a recognizer.
        name: A registry entry.
        out: File to write.
        folder: Pictures of faces; None: drawn ones.

    Raises:
        click.ClickException: A limit is missed, or the file cannot be written.
        ServiceError: The weights are not here, or not what their entry says.
    """
    registry, weights, spec = _open(settings, name)
    path = weights.locate(spec)
    if out.resolve() == path.resolve():
        raise click.UsageError(f"{out} holds the weights themselves: name another file")
    judged_by = f"the faces in {folder}" if folder else "faces drawn by code"
    caster = Caster(path, spec, _pictures(settings, registry, weights, spec, folder), num_threads=_threads(settings))
    casts = list(caster.half())
    last = casts[-1]
    click.echo(f"{name}, judged by {judged_by}:\n")
    click.echo("\n".join(_aligned(_half_table(caster, casts))))
    if last.fault:
        raise click.ClickException(f"{name} is not converted: {last.fault}")
    is_detector = spec.is_detector
    _write(out, last.model, {
        **_about(caster, last, judged_by),
        "agreement": asdict(last.agreement) if last.agreement else None,
        "limits": {name: limit for name, limit in asdict(FP16).items() if (name == "least_iou") == is_detector},
        "refused": {cast.name: cast.fault for cast in casts[:-1]},
    })  # fmt: skip
    click.echo(f"\n{out}")
    if last.name == FULL_SUMS.name and not spec.fp32_sums:
        click.echo(f"Put `fp32_sums = true` into the TOML of {name}, so that it is cast like this for engines too.")


def _threads(settings: Settings) -> int:
    return settings.cpu_threads or usable_cores()


def _about(caster: Caster, cast: Cast, judged_by: str) -> dict[str, Any]:
    """Return what a sidecar says of any cast model: what was made of what, by what, and what it was judged by."""
    made_by = {name: version(name) for name in ("onnx", "onnxconverter-common")}
    return {
        "model": caster.spec.name,
        "license": caster.spec.license,
        "source_sha256": caster.source_sha256,
        "source_bytes": caster.source_bytes,
        "sha256": hashlib.sha256(cast.model).hexdigest(),
        "bytes": len(cast.model),
        "precision": cast.name,
        "judged_by": judged_by,
        "made_by": {"jetface": __version__, "onnxruntime": ".".join(map(str, runtime_version())), **made_by},
    }


def _open(settings: Settings, name: str) -> tuple[Mapping[str, ModelSpec], WeightsFolder, ModelSpec]:
    registry, weights = open_weights(settings)
    spec = registry.get(name)
    if spec is None:
        raise click.UsageError(f"there is no model {name}: `jetface models list` shows all")
    return registry, replace(weights, fetcher=None), spec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identification:
    """How well embeddings tell people apart, as `jetface evaluate` has it."""

    rank_1: float
    tar: Mapping[float, float]
    """By false-match rate, those that the pairs suffice to tell."""


_FALSE_MATCH_RATES = (1e-3, 1e-4)
_LEAST_FALSE_MATCHES = 10
"""That a rate must stand for, as in `jetface evaluate`."""


def _identification(embeddings: NDArray[np.float32], people: NDArray[np.int64]) -> _Identification | None:
    """Return None where no two faces are one person's, or all are."""
    if len(set(people)) in {len(people), 0, 1}:
        return None
    pairs = count_pairs(embeddings, people)
    true, false = pairs.share(pairs.same), pairs.share(pairs.other)
    told = [rate for rate in _FALSE_MATCH_RATES if pairs.other.sum() * rate >= _LEAST_FALSE_MATCHES]
    return _Identification(
        rank_1=pairs.num_hits / pairs.num_probes,
        tar={rate: float(true[int(np.argmax(false <= rate))]) for rate in told},
    )


def quantize_model(
    settings: Settings, name: str, folder: Path, *, least_cosine: float, most_tar_loss: float, least_iou: float
) -> None:
    """Quantize a model, print what it was judged by, and write it into `MODELS_DIR`.

    Args:
        settings: Say where weights are, and which detector finds the faces for a recognizer.
        name: A registry entry.
        folder: Pictures of faces; of a recognizer, those of a person may lie in a folder of theirs.
        least_cosine: Least mean cosine of embeddings to those of FP32.
        most_tar_loss: Most points of TAR at one false match in 1,000 that may be lost.
        least_iou: Least mean IoU of boxes with those of FP32.

    Raises:
        click.ClickException: A limit is missed, or the file cannot be written.
        ServiceError: The weights are not here, or not what their entry says, or no picture shows a face.
    """
    registry, weights, spec = _open(settings, name)
    pictures, people = _pictures_of_people(settings, registry, weights, spec, folder)
    told: list[_Identification | None] = [None, None]

    def fault_of(agreement: Agreement, reference: Any, answers: Any) -> str | None:
        if isinstance(agreement, DetectionAgreement):
            if agreement.mean_iou >= least_iou:
                return None
            return f"boxes have a mean IoU of {agreement.mean_iou:.4f}, less than {least_iou}"
        told[:] = [_identification(side, people) for side in (reference, answers)]
        loss = _tar_loss(told)
        if agreement.mean_cosine < least_cosine:
            return f"embeddings have a mean cosine of {agreement.mean_cosine:.5f}, less than {least_cosine}"
        if loss is not None and loss > most_tar_loss:
            return f"TAR at one false match in 1,000 is {loss:.2f} points less, more than {most_tar_loss}"
        return None

    caster = Caster(weights.locate(spec), spec, pictures, num_threads=_threads(settings))
    cast = caster.int8(fault_of)
    judged_by = f"the faces in {folder}"
    click.echo(f"{name}, judged by {judged_by}:\n")
    click.echo("\n".join(_aligned(_int8_table(caster, cast, told))))
    click.echo(f"\n{len(cast.kept)} of {cast.num_operators} convolutions and matrix products stay in FP32.")
    if cast.fault or cast.agreement is None:
        raise click.ClickException(f"{name} is not quantized: {cast.fault}")
    agreement = {**asdict(cast.agreement), "tar_loss_points": _tar_loss(told)}
    for side, found in zip(("fp32", "int8"), told, strict=True):
        if found:
            agreement[side] = {"rank_1": found.rank_1, "tar": {f"{rate:g}": tar for rate, tar in found.tar.items()}}
    out = settings.models_dir / f"{name}.int8.onnx"
    _write(out, cast.model, {
        **_about(caster, cast, judged_by),
        "num_calibrated": cast.num_calibrated,
        "kept_in_fp32": list(cast.kept),
        "agreement": agreement,
        "limits": {"least_cosine": least_cosine, "most_tar_loss": most_tar_loss, "least_iou": least_iou},
    })  # fmt: skip
    click.echo(out)


def _pictures_of_people(
    settings: Settings, registry: Mapping[str, ModelSpec], weights: WeightsFolder, spec: ModelSpec, folder: Path
) -> tuple[Pictures, NDArray[np.int64]]:
    """Return what a model is judged by, and of crops whom each shows: by the folder its picture lies in."""
    pictures = FolderPictures(folder, settings.max_image_pixels)
    if spec.is_detector:
        return pictures, np.zeros(0, np.int64)
    found = [next(iter(crops), None) for crops in _faces(settings, registry, weights, pictures)]
    names = [path.relative.parts[:-1] for path in pictures.readable()]
    numbers = {name[0]: number for number, name in enumerate(names) if name}
    faces = [
        (crop, numbers[name[0]] if name else -1) for crop, name in zip(found, names, strict=True) if crop is not None
    ]
    # Who is in no folder is a person of their own.
    people = np.array([person if person >= 0 else len(names) + row for row, (_, person) in enumerate(faces)], np.int64)
    crops = [crop for crop, _ in faces]
    return lambda: crops, np.unique(people, return_inverse=True)[1].reshape(-1)


def _faces(
    settings: Settings, registry: Mapping[str, ModelSpec], weights: WeightsFolder, pictures: Pictures
) -> list[list[Crop]]:
    """Return the faces that the detector of the settings finds in each picture, the largest first."""
    detector = registry[
        ModelChooser(registry, weights.is_at_hand).require("DET_MODEL", settings.det_model, "detection")
    ]
    return find_faces(weights.locate(detector), detector, pictures, num_threads=_threads(settings))


def _tar_loss(told: Sequence[_Identification | None]) -> float | None:
    """Return by how many points TAR at one false match in 1,000 is less; None where it cannot be told."""
    rate = _FALSE_MATCH_RATES[0]
    tars = [found.tar[rate] for found in told if found and rate in found.tar]
    return 100 * (tars[0] - tars[1]) if len(tars) == 2 else None


def _int8_table(caster: Caster, cast: Cast, told: Sequence[_Identification | None]) -> Iterator[Row]:
    verdict = cast.fault or "within the limits"
    sizes = (_megabytes(caster.source_bytes), _megabytes(len(cast.model)))
    figures = _figures(cast.agreement)
    if isinstance(cast.agreement, DetectionAgreement):
        yield ("", "found by both", "by one only", "worst IoU", "mean IoU", "MB", "")
        yield ("fp32", "", "", "", "", sizes[0], "")
        yield ("int8", *figures, f"{cast.agreement.mean_iou:.4f}", sizes[1], verdict)
        return
    rates = [f"TAR at 1 in {round(1 / rate):,}" for rate in _FALSE_MATCH_RATES]
    yield ("", "faces", "mean cosine", "worst cosine", "rank-1", *rates, "MB", "")
    for name, cosines, found, size, end in (
        ("fp32", ("", ""), told[0], sizes[0], ""),
        ("int8", figures[1:], told[1], sizes[1], verdict),
    ):
        rank_1 = f"{100 * found.rank_1:.2f} %" if found else "-"
        tars = [f"{100 * found.tar[rate]:.2f} %" if found and rate in found.tar else "-" for rate in _FALSE_MATCH_RATES]
        yield (name, figures[0], *cosines, rank_1, *tars, size, end)


def _pictures(
    settings: Settings, registry: Mapping[str, ModelSpec], weights: WeightsFolder, spec: ModelSpec, folder: Path | None
) -> Pictures:
    """Return what a model is judged by: pictures for a detector, crops for all else."""
    if folder is None:
        drawings = draw_pictures()
        drawn = drawings.pictures if spec.is_detector else drawings.crops
        return lambda: drawn
    pictures = FolderPictures(folder, settings.max_image_pixels)
    if spec.is_detector:
        return pictures
    crops = [crop for faces in _faces(settings, registry, weights, pictures) for crop in faces]
    return lambda: crops


def _half_table(caster: Caster, casts: Sequence[Cast]) -> Iterator[Row]:
    """Yield the lines of the table, heading first: what was cast, how near it was, and what it had to reach."""
    if caster.spec.is_detector:
        yield ("", "found by both", "by one only", "worst IoU", "MB", "")
        limits: Row = ("limits", "", "0", f">= {FP16.least_iou}", "", "")
    else:
        yield ("", "faces", "mean cosine", "worst cosine", "MB", "")
        limits = ("limits", "", f">= {FP16.least_mean_cosine}", f">= {FP16.least_worst_cosine}", "", "")
    yield ("weights file", "", "", "", _megabytes(caster.source_bytes), "")
    for cast in casts:
        yield (cast.name, *_figures(cast.agreement), _megabytes(len(cast.model)), cast.fault or "within the limits")
    yield limits


def _figures(agreement: Agreement | None) -> Row:
    if agreement is None:
        return ("-", "-", "-")
    if isinstance(agreement, DetectionAgreement):
        return (str(agreement.found_by_both), str(agreement.only_one), f"{agreement.worst_iou:.4f}")
    return (str(agreement.num_compared), f"{agreement.mean_cosine:.6f}", f"{agreement.worst_cosine:.6f}")


def _aligned(rows: Iterator[Row]) -> Iterator[str]:
    """Yield lines whose columns have one width each."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *figures, verdict in table:
        cells = (f"{figure:>{width}}" for figure, width in zip(figures, widths[1:-1], strict=True))
        yield "  ".join((f"{name:<{widths[0]}}", *cells, verdict)).rstrip()


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f}"


def _write(out: Path, model: bytes, verdict: Mapping[str, Any]) -> None:
    try:
        write_with_sidecar(out, model, json.dumps(verdict, indent=2).encode())
    except OSError as cause:
        raise click.ClickException(f"{out} cannot be written: {cause.strerror}") from cause


@click.command()
@click.argument("name")
@click.option("--precision", type=click.Choice(["fp16"]), default="fp16", show_default=True)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Default: NAME.fp16.onnx in MODELS_DIR. What it was judged by is written beside it, as JSON.",
)  # fmt: skip
@click.option(
    "--pictures", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER",
    help="Pictures of faces to judge by, with all below the folder; default: faces drawn by code.",
)  # fmt: skip
def convert(name: str, *, precision: str, out: Path | None, folder: Path | None) -> None:
    """Cast a detector or recognizer to FP16, for a GPU: half the bytes, float32 at both ends.

    Its answers are compared with those of FP32, with every value rounded as a GPU rounds it. Exit code 1, and nothing
    is written, when a limit is missed. Engines need no converted file: graphs are cast while they are loaded.
    """
    settings = read_settings()
    configure_quiet_logs(settings)
    convert_model(settings, name, out or settings.models_dir / f"{name}.{precision}.onnx", folder)


@click.command()
@click.argument("name")
@click.option(
    "--pictures", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER",
    required=True, help="Pictures of faces as yours are. A folder for each person in it: TAR and rank-1 are told, too.",
)  # fmt: skip
@click.option(
    "--least-cosine", type=click.FloatRange(0, 1), default=0.985, show_default=True,
    help="Of a recognizer: least mean cosine of its embeddings to those of FP32.",
)  # fmt: skip
@click.option(
    "--most-tar-loss", type=click.FloatRange(0, 100), default=0.2, show_default=True,
    help="Of a recognizer: most points of TAR at one false match in 1,000 it may lose, where it can be told.",
)  # fmt: skip
@click.option(
    "--least-iou", type=click.FloatRange(0, 1), default=0.95, show_default=True,
    help="Of a detector: least mean IoU of its boxes with those of FP32; a face one side misses counts as 0.",
)  # fmt: skip
def quantize(name: str, *, folder: Path, least_cosine: float, most_tar_loss: float, least_iou: float) -> None:
    """Quantize a detector or recognizer to INT8, calibrated and judged on FOLDER.

    Writes NAME.int8.onnx into MODELS_DIR, with QDQ nodes that ONNX Runtime, OpenVINO and TensorRT read, and beside it,
    as JSON, what it was judged by. Operators that hurt most stay in FP32. Exit code 1, and nothing is written, when a
    limit is missed. REC_PRECISION and DET_PRECISION say whether it serves.
    """
    settings = read_settings()
    configure_quiet_logs(settings)
    quantize_model(settings, name, folder, least_cosine=least_cosine, most_tar_loss=most_tar_loss, least_iou=least_iou)
