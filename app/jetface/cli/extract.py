"""`jetface extract`: the service's pipeline on files and folders, without HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from jetface.cli.pictures import Picture, Results, extract_each, print_results
from jetface.domain import ExtractOptions
from jetface.service import Service


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a picture, embeddings included.")
@click.option(
    "--draw", "draw_dir", type=click.Path(file_okay=False, path_type=Path), help="Write annotated pictures here."
)
@click.option("--detect-only", is_flag=True, help="Boxes and landmarks; no embeddings, no recognizer.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Least detector score; default: DEF_DET_THRESH, or the detector's own.",
)
@click.option("--limit-faces", type=click.IntRange(0), default=0, help="Only the N largest faces; 0: all.")
@click.option(
    "--rotations",
    type=click.Choice(["none", "auto"]),
    default="none",
    show_default=True,
    help="auto: look at pictures without a sure face in their other three quarter turns, too.",
)
@click.option("--min-face-size", type=click.IntRange(0), default=0, help="Drop faces narrower than this, pixels.")
@click.option("--strict", is_flag=True, help="Exit code 1, too, when files of a folder were skipped.")
def extract(  # noqa: PLR0913 - its arguments are the options of the command
    *,
    paths: tuple[Path, ...],
    as_json: bool,
    draw_dir: Path | None,
    detect_only: bool,
    threshold: float | None,
    limit_faces: int,
    rotations: Literal["none", "auto"],
    min_face_size: int,
    strict: bool,
) -> None:
    """Find and recognize the faces of pictures: files, and folders with all below them.

    What is no picture by its suffix, or without one by its bytes, is skipped and counted. Exit code 1 when a picture
    failed, or when no picture was found.
    """

    def ask(service: Service, pictures: Sequence[Picture]) -> Results:
        options = ExtractOptions(
            score_threshold=service.score_threshold if threshold is None else threshold,
            limit_faces=limit_faces,
            min_face_width_px=min_face_size,
            rotations=rotations,
            with_embedding=not detect_only,
        )
        return extract_each(service, pictures, options, draw_dir)

    print_results(paths, ask, as_json=as_json, strict=strict)
