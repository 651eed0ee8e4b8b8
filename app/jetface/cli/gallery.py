"""`jetface gallery`: people from folders of pictures, who is on a picture, and the gallery's files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from jetface.cli.quiet import configure_quiet_logs
from jetface.settings import Settings, read_settings

DEFAULT_COLLECTION = "people"

_collection = click.option(
    "--collection", default=DEFAULT_COLLECTION, show_default=True, help="Collection of the gallery."
)

_url = click.option(
    "--url", help="A running service to ask, such as http://localhost:18080; else this process does it."
)
_api_key = click.option(
    "--api-key", envvar="JETFACE_API_KEY", help="Of the service at --url; or the variable JETFACE_API_KEY."
)


def _settings() -> Settings:
    """Return the settings.

    Raises:
        click.ClickException: They name no gallery.
    """
    settings = read_settings()
    configure_quiet_logs(settings)
    if settings.gallery_dir is None and settings.gallery_url is None:
        raise click.ClickException("there is no gallery: set GALLERY_DIR to its folder")
    return settings


def _settings_of_file() -> Settings:
    """Return the settings of a gallery that is a file.

    Raises:
        click.ClickException: They name none, or a database.
    """
    settings = _settings()
    if settings.gallery_dir is None:
        raise click.ClickException("this is for GALLERY_DIR; a database has tools of its own, pg_dump among them")
    return settings


@click.group()
def gallery() -> None:
    """Enrol people, say who is on a picture, look after the gallery in GALLERY_DIR.

    One process has the gallery at a time. While the service runs on it, `enrol` and `search` go through the service,
    by --url; `backup`, `check` and `stats` work beside it.
    """


@gallery.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_collection
@click.option("--min-quality", type=click.FloatRange(0, 1), default=0.0, help="Refuse faces of less quality.")
@click.option("--one-face", is_flag=True, help="Refuse pictures that show several faces; else the largest is meant.")
@_url
@_api_key
def enrol(
    *, folder: Path, collection: str, min_quality: float, one_face: bool, url: str | None, api_key: str | None
) -> None:
    """Enrol people: each folder in FOLDER is a person, its name the person's, the pictures in and below it the faces.

    A second run adds what is new: a face is known by its picture's path. Exit code 1 where a picture was refused.
    """
    from jetface.cli.gallery_work import by_server, enrol_folder, in_process  # noqa: PLC0415 - see below

    # `jetface --help` need not wait for what does the work.
    settings = read_settings()
    desk = by_server(url, api_key) if url else in_process(_settings())
    summary = asyncio.run(
        enrol_folder(settings, desk, folder, collection, min_quality=min_quality, takes_largest=not one_face)
    )
    click.echo(f"{collection}: {summary.num_persons} persons, {summary.num_faces} faces; {summary.num_new} are new")
    if summary.num_refused:
        raise click.ClickException(f"{summary.num_refused} of {summary.num_pictures} pictures refused")


@gallery.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PICTURE...")
@_collection
@click.option("--top", type=click.IntRange(1, 100), default=1, show_default=True, help="Most persons a face.")
@click.option("--threshold", type=click.FloatRange(-1, 1), help="Least similarity; default: the recognizer's.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a picture.")
@_url
@_api_key
def search(
    *,
    paths: tuple[Path, ...],
    collection: str,
    top: int,
    threshold: float | None,
    as_json: bool,
    url: str | None,
    api_key: str | None,
) -> None:
    """Say who is on pictures: every face of each, with the persons most alike."""
    from jetface.cli.gallery_work import by_server, in_process, search_pictures  # noqa: PLC0415 - as above

    settings = read_settings()
    desk = by_server(url, api_key) if url else in_process(_settings())
    num_failed = asyncio.run(
        search_pictures(settings, desk, paths, collection, top_k=top, threshold=threshold, as_json=as_json)
    )
    if num_failed:
        raise click.ClickException(f"{num_failed} pictures failed")


@gallery.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(*, file: Path) -> None:
    """Write a copy of the gallery to FILE, also while the service runs; what was deleted is not in it."""
    from jetface.cli.gallery_work import back_up  # noqa: PLC0415 - as above

    back_up(_settings_of_file(), file)


@gallery.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="In place of the gallery that is there.")
def restore(*, file: Path, force: bool) -> None:
    """Make a backup the gallery, once it is found to be whole. The service must not run on it."""
    from jetface.cli.gallery_work import restore_backup  # noqa: PLC0415 - as above

    restore_backup(_settings_of_file(), file, is_forced=force)


@gallery.command()
def check() -> None:
    """Look for damage in the gallery's file; exit code 1 where there is any."""
    from jetface.cli.gallery_work import find_faults  # noqa: PLC0415 - as above

    faults = find_faults(_settings_of_file())
    for fault in faults:
        click.echo(fault)
    if faults:
        raise click.ClickException("the gallery is damaged: restore a backup")
    click.echo("whole")


@gallery.command()
def stats() -> None:
    """Print the collections: recognizer, persons, faces; and the size of the file."""
    from jetface.cli.gallery_work import tabulate_stats  # noqa: PLC0415 - as above

    for line in tabulate_stats(_settings_of_file()):
        click.echo(line)


@gallery.command(name="export")
@click.argument("folder", type=click.Path(exists=False, path_type=Path))
@_collection
def export_(*, folder: Path, collection: str) -> None:
    """Write a collection into a new FOLDER as JSON lines and a NumPy file of vectors."""
    from jetface.cli.gallery_work import export_to  # noqa: PLC0415 - as above

    click.echo(f"{asyncio.run(export_to(_settings(), collection, folder))} faces")


@gallery.command(name="import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--collection", help="Under this name; default: that of the export.")
def import_(*, folder: Path, collection: str | None) -> None:
    """Add what `jetface gallery export` wrote to a collection; what is there already stays."""
    from jetface.cli.gallery_work import import_from  # noqa: PLC0415 - as above

    name, count = asyncio.run(import_from(_settings(), folder, collection))
    click.echo(f"{name}: {count} faces")


@gallery.command(name="import-compreface")
@click.argument("url")
@click.option(
    "--api-key",
    envvar="COMPREFACE_API_KEY",
    required=True,
    help="Of its recognition service; or the variable COMPREFACE_API_KEY.",
)
@click.option("--collection", help="Default: COMPREFACE_COLLECTION, which its clients see here.")
def import_compreface(*, url: str, api_key: str, collection: str | None) -> None:
    """Enrol what a running CompreFace at URL has: its subjects' pictures, under their ids.

    Embeddings are not taken: they are another model's. A second run takes up where the first was ended. Exit code 1
    where a picture was not kept there, or is refused here.
    """
    from jetface.cli.gallery_work import import_from_compreface  # noqa: PLC0415 - as above

    settings = _settings()
    name = collection or settings.compreface_collection
    summary = asyncio.run(import_from_compreface(settings, url, api_key, name))
    click.echo(f"{name}: {summary.num_persons} persons, {summary.num_faces} faces; {summary.num_new} are new")
    if summary.num_refused:
        raise click.ClickException(f"{summary.num_refused} of {summary.num_pictures} pictures refused")


@gallery.command()
@click.argument("collection")
def reembed(*, collection: str) -> None:
    """Move a collection to the recognizer that serves now, by the crops that GALLERY_KEEP_CROPS kept.

    Faces without a crop are left behind; persons stay. Searches find the collection as it was until the end.
    """
    from jetface.cli.gallery_work import reembed_collection  # noqa: PLC0415 - as above

    num_moved, num_left = asyncio.run(reembed_collection(_settings(), collection))
    click.echo(f"{collection}: {num_moved} faces embedded anew")
    if num_left:
        raise click.ClickException(f"{num_left} faces had no crop and were left behind: enrol their pictures anew")
