"""`jetface models convert`: a model cast to half precision, judged before it is written."""

from __future__ import annotations

from pathlib import Path

import click

from app.cli.quiet import configure_quiet_logs
from app.settings import read_settings


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
    from app.cli.converting import convert_model  # noqa: PLC0415 - brings all that models need: not for `--help`

    settings = read_settings()
    configure_quiet_logs(settings)
    convert_model(settings, name, out or settings.models_dir / f"{name}.{precision}.onnx", folder)
