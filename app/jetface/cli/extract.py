"""`jetface extract`: the service's pipeline on files and folders, without HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from jetface.cli.pictures import Picture, Results, Wish, extract_each, print_results, wish_options
from jetface.service import Service


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a picture, embeddings included.")
@click.option(
    "--draw", "draw_dir", type=click.Path(file_okay=False, path_type=Path), help="Write annotated pictures here."
)
@click.option("--detect-only", is_flag=True, help="Boxes and landmarks; no embeddings, no recognizer.")
@wish_options
@click.option("--strict", is_flag=True, help="Exit code 1, too, when files of a folder were skipped.")
def extract(
    *, paths: tuple[Path, ...], as_json: bool, draw_dir: Path | None, detect_only: bool, strict: bool, **wish: Any
) -> None:
    """Find and recognize the faces of pictures: files, and folders with all below them.

    What is no picture by its suffix, or without one by its bytes, is skipped and counted. Exit code 1 when a picture
    failed, or when no picture was found.
    """

    def ask(service: Service, pictures: Sequence[Picture]) -> Results:
        options = Wish(**wish).options(service, with_embedding=not detect_only)
        return extract_each(service, pictures, options, draw_dir)

    print_results(paths, ask, as_json=as_json, strict=strict)
