"""`jetface models convert` and `quantize`: a model in FP16 or INT8, judged before it is written."""

from __future__ import annotations

from pathlib import Path

import click

from jetface.cli.converting import convert_model, quantize_model
from jetface.cli.quiet import configure_quiet_logs
from jetface.settings import read_settings


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
