"""What `jetface embed` does: the pictures of a folder into a table of faces."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from pathlib import Path

import click
from tqdm import tqdm

from jetface.cli.embedders import Embedder
from jetface.cli.face_table import FacesOfPicture, FaceTable, open_table
from jetface.cli.pictures import Picture, find_pictures, readable_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run has done."""

    model: str
    num_faces: int
    """In the whole table."""
    num_skipped: int
    """In the table before."""
    num_pictures: int
    """Looked at now; those that failed included."""
    num_failed: int
    skipped: Counter[str]
    """Other files, by reason."""


async def embed_folder(
    folder: Path, out: Path, opening: AbstractAsyncContextManager[Embedder], *, chunk: int, accept_tiff: bool = False
) -> Summary:
    """Bring a table up to a folder: pictures it holds already are skipped, those that failed are tried again.

    Args:
        folder: Searched as `find_pictures` does.
        out: Parquet file.
        opening: Of who finds and embeds the faces.
        chunk: Pictures a part; a run that is killed loses no more.
        accept_tiff: Whether TIFF is looked at.

    Raises:
        click.ClickException: The table cannot be written; see `open_table`.
        ServiceError: What is wrong is not a picture but the service. What was found until then is kept.
    """
    async with opening as embedder:
        with open_table(out, embedder.model) as table:
            skipped: Counter[str] = Counter()
            found = find_pictures([folder], accept_tiff=accept_tiff, skipped=skipped)
            pictures = [picture for picture in found if _key(picture) not in table.looked_at]
            num_skipped = len(found) - len(pictures)
            num_failed = await _embed_each(pictures, table, embedder, chunk=chunk, num_skipped=num_skipped)
            return Summary(
                model=embedder.model.name,
                num_faces=table.finish(),
                num_skipped=num_skipped,
                num_pictures=len(pictures),
                num_failed=num_failed,
                skipped=skipped,
            )


def _key(picture: Picture) -> str:
    """Return what a picture is called in the table: below the folder, with slashes."""
    return readable_name(picture.relative.as_posix())


async def _embed_each(
    pictures: Sequence[Picture], table: FaceTable, embedder: Embedder, *, chunk: int, num_skipped: int
) -> int:
    """Add every picture to the table; return how many failed."""
    num_failed = 0
    pending: list[FacesOfPicture] = []
    num_all = num_skipped + len(pictures)
    results = embedder.embed(pictures)
    try:
        with tqdm(total=num_all, initial=num_skipped, unit="picture", file=sys.stderr, disable=None) as progress:
            async with aclosing(results):
                async for picture, result in results:
                    progress.update()
                    if result.error is not None:
                        num_failed += 1
                        with tqdm.external_write_mode(file=sys.stderr):
                            click.echo(f"{readable_name(picture.path)}: failed: {result.error.message}", err=True)
                        continue
                    pending.append(FacesOfPicture(_key(picture), result.faces))
                    if len(pending) == chunk:
                        table.add(pending)
                        pending = []
    finally:
        # Interrupted or failed: what is known by now need not be found again.
        table.add(pending)
    return num_failed
