"""What `jetface models convert` does: weights and pictures found, the table printed, the files written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import onnx

from app import __version__
from app.atomic import whole_file
from app.backends.cpu import usable_cores
from app.cli.pictures import find_pictures
from app.domain import Image
from app.errors import RequestError
from app.imaging.decode import Decoder
from app.imaging.sniff import sniff
from app.models.defaults import ModelChooser
from app.models.graphs.half import FULL_SUMS
from app.models.judging.agreement import DETECTIONS, FP16_EMBEDDINGS, DetectionAgreement, EmbeddingAgreement
from app.models.judging.conversion import Conversion, convert_to_half, crops_of
from app.models.judging.probes import draw_probes
from app.models.judging.trials import Pictures
from app.models.weights.files import WeightsFolder
from app.service import open_weights
from app.settings import Settings
from app.specs import ModelSpec

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
    registry, weights = open_weights(settings)
    weights = replace(weights, fetcher=None)
    spec = registry.get(name)
    if spec is None:
        raise click.UsageError(f"there is no model {name}: `jetface models list` shows all")
    path = weights.locate(spec)
    if out.resolve() == path.resolve():
        raise click.UsageError(f"{out} holds the weights themselves: name another file")
    num_threads = settings.cpu_threads or usable_cores()
    pictures = _pictures(settings, registry, weights, spec, folder)
    conversion = convert_to_half(path, spec, pictures, num_threads=num_threads)
    judged_by = f"the faces in {folder}" if folder else "faces drawn by code"
    click.echo(f"{name}, judged by {judged_by}:\n")
    click.echo("\n".join(_aligned(_table(spec, conversion))))
    if conversion.model is None:
        raise click.ClickException(f"{name} is not converted: {conversion.attempts[-1].fault}")
    _write(out, conversion.model, _verdict(spec, conversion, judged_by))
    click.echo(f"\n{out}")
    if conversion.attempts[-1].policy is FULL_SUMS and not spec.fp32_sums:
        click.echo(f"Put `fp32_sums = true` into the TOML of {name}, so that it is cast like this for engines too.")


def _pictures(
    settings: Settings, registry: Mapping[str, ModelSpec], weights: WeightsFolder, spec: ModelSpec, folder: Path | None
) -> Pictures:
    """Return what a model is judged by: pictures for a detector, crops for all else."""
    if folder is None:
        probes = draw_probes()
        drawn = probes.pictures if spec.task == "detection" else probes.crops
        return lambda: drawn
    pictures = FolderPictures(folder, settings.max_image_pixels)
    if spec.task == "detection":
        return pictures
    detector = ModelChooser(registry, weights.is_at_hand).require("DET_MODEL", settings.det_model, "detection")
    num_threads = settings.cpu_threads or usable_cores()
    crops = crops_of(weights.locate(registry[detector]), registry[detector], pictures, num_threads=num_threads)
    return lambda: crops


def _table(spec: ModelSpec, conversion: Conversion) -> Iterator[Row]:
    """Yield the lines of the table, heading first: what was cast, how near it was, and what it had to reach."""
    if spec.task == "detection":
        yield ("", "found by both", "by one only", "worst IoU", "MB", "")
        limits: Row = ("limits", "", "0", f">= {DETECTIONS.least_iou}", "", "")
    else:
        yield ("", "faces", "mean cosine", "worst cosine", "MB", "")
        least = FP16_EMBEDDINGS
        limits = ("limits", "", f">= {least.least_mean_cosine}", f">= {least.least_worst_cosine}", "", "")
    yield ("weights file", "", "", "", _megabytes(conversion.source_bytes), "")
    for attempt in conversion.attempts:
        size = _megabytes(len(attempt.model))
        yield (attempt.policy.name, *_figures(attempt.agreement), size, attempt.fault or "within the limits")
    yield limits


def _figures(agreement: DetectionAgreement | EmbeddingAgreement | None) -> Row:
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


def _verdict(spec: ModelSpec, conversion: Conversion, judged_by: str) -> Mapping[str, Any]:
    """Return the sidecar: what was cast how, by what it was judged, and what came out."""
    last = conversion.attempts[-1]
    limits = DETECTIONS if spec.task == "detection" else FP16_EMBEDDINGS
    return {
        "model": spec.name,
        "license": spec.license,
        "source_sha256": conversion.source_sha256,
        "source_bytes": conversion.source_bytes,
        "sha256": conversion.sha256,
        "bytes": len(last.model),
        "precision": last.policy.name,
        "judged_by": judged_by,
        "agreement": asdict(last.agreement) if last.agreement else None,
        "limits": asdict(limits),
        "refused": {attempt.policy.name: attempt.fault for attempt in conversion.attempts[:-1]},
        "made_by": {
            "jetface": __version__,
            "onnx": onnx.__version__,
            "onnxconverter-common": version("onnxconverter-common"),
        },
    }


def _write(out: Path, model: bytes, verdict: Mapping[str, Any]) -> None:
    try:
        for path, content in ((out, model), (out.with_suffix(".json"), json.dumps(verdict, indent=2).encode())):
            with whole_file(path) as file:
                file.write(content)
    except OSError as cause:
        raise click.ClickException(f"{out} cannot be written: {cause.strerror}") from cause
