"""`jetface embed`: a folder of pictures into a Parquet file of faces, for who fills a vector database."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import click

from jetface.cli.quiet import configure_quiet_logs
from jetface.settings import read_settings


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Parquet file, one row a face."
)
@click.option("--url", help="A running service to ask, such as http://localhost:18080; else this process does it.")
@click.option("--api-key", envvar="JETFACE_API_KEY", help="Of the service at --url; or the variable JETFACE_API_KEY.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Least detector score; default: the service's.")
@click.option("--limit-faces", type=click.IntRange(0), default=0, help="Only the N largest faces; 0: all.")
@click.option("--min-face-size", type=click.IntRange(0), default=0, help="Drop faces narrower than this, pixels.")
@click.option(
    "--rotations",
    type=click.Choice(["none", "auto"]),
    default="none",
    show_default=True,
    help="auto: look at pictures without a sure face in their other three quarter turns, too.",
)
@click.option("--min-quality", type=click.FloatRange(0, 1), default=0.0, help="Drop faces of less quality; 0: none.")
@click.option("--chunk", type=click.IntRange(1), default=256, show_default=True, help="Pictures a part of the file.")
@click.option("--strict", is_flag=True, help="Exit code 1, too, when files of the folder were skipped.")
def embed(  # noqa: PLR0913 - its arguments are the options of the command
    *,
    folder: Path,
    out: Path,
    url: str | None,
    api_key: str | None,
    threshold: float | None,
    limit_faces: int,
    min_face_size: int,
    rotations: Literal["none", "auto"],
    min_quality: float,
    chunk: int,
    strict: bool,
) -> None:
    """Embed the faces of all pictures in a folder and below it.

    A second run adds what is new: pictures in the file are skipped by their path, those that failed are tried again.
    A run that is killed is taken up where it was; it loses at most one chunk. Exit code 1 when a picture failed.
    """
    try:
        # Here, because they bring pyarrow, which is optional, and what `jetface --help` need not wait for.
        from jetface.cli.embedding import embed_folder  # noqa: PLC0415 - as above
    except ImportError as cause:
        if cause.name is None or cause.name.partition(".")[0] != "pyarrow":
            raise
        raise click.ClickException("Parquet files need pyarrow: pip install 'jetface[parquet]'") from cause
    from jetface.cli.embedders import Wish, by_server, in_process  # noqa: PLC0415 - as above
    from jetface.cli.pictures import readable_name, tell_skipped  # noqa: PLC0415 - as above

    settings = read_settings()
    configure_quiet_logs(settings)
    wish = Wish(
        threshold=threshold,
        limit_faces=limit_faces,
        min_face_size=min_face_size,
        rotations=rotations,
        min_quality=min_quality,
    )
    opening = by_server(url, api_key, wish) if url else in_process(settings, wish)
    summary = asyncio.run(embed_folder(folder, out, opening, chunk=chunk, accept_tiff=settings.accept_tiff))
    skipped = f", {summary.num_skipped} more were there" if summary.num_skipped else ""
    click.echo(
        f"{readable_name(out)}: {summary.num_faces} faces of {summary.model}; {summary.num_pictures} pictures{skipped}"
    )
    tell_skipped(summary.skipped, strict=strict and not summary.num_failed)
    if summary.num_failed:
        raise click.ClickException(f"{summary.num_failed} of {summary.num_pictures} pictures failed")
