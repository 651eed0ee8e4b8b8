"""`jetface bulk`: pictures of folders, lists and object stores into Parquet files, on one machine or many."""

from __future__ import annotations

import click

from jetface.cli.quiet import configure_quiet_logs
from jetface.settings import read_settings


@click.command()
@click.argument("source")
@click.option("--out", required=True, metavar="DEST", help="Folder of Parquet files: a path, or a URL such as s3://...")
@click.option("--address", help="A Ray cluster, such as 10.0.0.1:6379 or auto; else this machine alone.")
@click.option("--column", default="path", show_default=True, help="Of a list, where its paths and URLs stand.")
@click.option("--actors", type=click.IntRange(1), help="Services at once; default: one a machine, or one a GPU.")
@click.option("--chunk", type=click.IntRange(1), default=256, show_default=True, help="Pictures a file.")
@click.option("--max-errors", type=click.IntRange(0), help="Stop when more pictures than this have failed.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Least detector score; default: the detector's own.")
@click.option("--limit-faces", type=click.IntRange(0), default=0, help="Only the N largest faces; 0: all.")
def bulk(  # noqa: PLR0913 - its arguments are the options of the command
    *,
    source: str,
    out: str,
    address: str | None,
    column: str,
    actors: int | None,
    chunk: int,
    max_errors: int | None,
    threshold: float | None,
    limit_faces: int,
) -> None:
    """Find and embed the faces of millions of pictures on Ray Data.

    SOURCE is a folder, a glob in quotes, or a list of paths and URLs (.csv, .parquet, .txt), each here or on an object
    store. Each picture becomes one row a face, or one row without a face, or with its error. A second run adds what is
    not in DEST yet, after whatever ended the first. Exit code 1 when a picture failed.
    """
    try:
        # Here, because they bring Ray, which is optional, and what `jetface --help` need not wait for.
        from jetface.cli.bulk_work import Work, run  # noqa: PLC0415 - as above
    except ImportError as cause:
        if cause.name is None or cause.name.partition(".")[0] not in {"fsspec", "pyarrow", "ray"}:
            raise
        raise click.ClickException("Ray is not installed: pip install 'jetface[bulk]'") from cause
    settings = read_settings()
    configure_quiet_logs(settings)
    work = Work(settings=settings, out=out, threshold=threshold, limit_faces=limit_faces)
    summary = run(work, source, column=column, address=address, num_actors=actors, chunk=chunk, max_errors=max_errors)
    before = f", {summary.num_before} more were there" if summary.num_before else ""
    click.echo(f"{out}: {summary.num_faces} faces in {summary.num_pictures} pictures{before}")
    if max_errors is not None and summary.num_failed > max_errors:
        raise click.ClickException(f"stopped: {summary.num_failed} pictures failed, and --max-errors is {max_errors}")
    if summary.num_failed:
        raise click.ClickException(f"{summary.num_failed} of {summary.num_pictures} pictures failed")
