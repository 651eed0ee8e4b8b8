"""`jetface plates`: licence plates of files and folders, found and read without HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from jetface.cli.pictures import Picture, Results, each_in_order, print_results
from jetface.domain import PictureResult, PlateOptions
from jetface.imaging.sources import EncodedPicture
from jetface.service import Service


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a picture, with all that is known of it.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Least detector score; default: the detector's own.")
@click.option("--limit", type=click.IntRange(0), default=0, help="Only the N largest plates; 0: all.")
@click.option("--min-width", type=click.IntRange(0), default=0, help="Drop plates narrower than this, pixels.")
@click.option("--strict", is_flag=True, help="Exit code 1, too, when files of a folder were skipped.")
def plates(
    *, paths: tuple[Path, ...], as_json: bool, threshold: float | None, limit: int, min_width: int, strict: bool
) -> None:
    """Find and read the licence plates of pictures: files, and folders with all below them.

    PLATE_DET_MODEL and PLATE_OCR_MODEL say by which models. Files are skipped and exit codes given as by
    `jetface extract`.
    """
    options = PlateOptions(score_threshold=threshold, limit=limit, min_width_px=min_width)

    def ask(service: Service, pictures: Sequence[Picture]) -> Results:
        finder = service.require_plates()

        async def find_one(_: Picture, source: EncodedPicture, deadline: float) -> PictureResult:
            (result,) = await finder.find([source], options, deadline=deadline)
            return result

        return each_in_order(pictures, find_one)

    print_results(paths, ask, as_json=as_json, strict=strict)
