"""`jetface find`: the pictures of a folder that show a person; and what `group` shares with it."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jetface.cli.embed import Summary, embed_pictures, embedder_of
from jetface.cli.face_table import FORMATS, vectors_of
from jetface.cli.pictures import Wish, each_in_order, readable_name, tell_skipped
from jetface.cli.quiet import configure_quiet_logs
from jetface.cli.sources import Source
from jetface.cli.sources import find as find_sources
from jetface.domain import Vector
from jetface.gallery.index import Candidates, ExactIndex
from jetface.gallery.search import Ranked, rank
from jetface.service import Service, open_service
from jetface.settings import cache_dir, read_settings

_CHUNK = 32
"""Pictures that a killed run loses at most."""
_KEPT_DAYS = 90
"""How long the faces of a folder are kept in the cache after the last that was new."""
_SHOWN = ("path", "face_index", "box", "score", "quality")


class FaceIndex:
    """Faces in memory, found by the gallery's index and ranked by their own vectors."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """Take (N, L) vectors of unit length; a face is known by its row."""
        self._vectors = vectors
        self._index = ExactIndex(vectors.shape[1])
        rows = np.arange(len(vectors))
        self._index.add(rows, rows, vectors)

    def nearest(self, queries: NDArray[np.float32], count: int) -> list[list[Ranked]]:
        """Return the `count` faces most like each of (B, L) queries."""
        return rank(self._rows, queries, self._index.nearest(queries, count))

    def alike(self, query: Vector, threshold: float) -> list[Ranked]:
        """Return all faces that are at least so similar, most alike first."""
        (found,) = self._index.nearest(query[None], len(self._index))
        may_be = found.scores >= threshold - self._index.error
        candidates = Candidates(found.ids[may_be], found.persons[may_be], found.scores[may_be])
        (ranked,) = rank(self._rows, query[None], [candidates])
        return [face for face in ranked if face.similarity >= threshold]

    def _rows(self, ids: list[int]) -> tuple[dict[int, int], NDArray[np.float32]]:
        return {face: row for row, face in enumerate(ids)}, self._vectors[ids]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of a folder; its fields are the options of `folder_options`."""

    threshold: float | None
    """Least similarity of one person; None: the recognizer's."""
    min_quality: float
    faces: Path | None
    """The file that keeps the faces; None: one in the cache, for this folder and these models."""
    form: str | None
    """Ending of the format in which faces are told; None: lines that people read."""
    strict: bool


Command = TypeVar("Command", bound=Callable[..., Any])


def folder_options(command: Command) -> Command:
    """Give a command the options that make an `Asked`."""
    for option in (
        click.option("--strict", is_flag=True, help="Exit code 1, too, when files of the folder were skipped."),
        click.option("--csv", "form", flag_value=".csv", help="CSV, a face a row."),
        click.option("--json", "form", flag_value=".jsonl", help="JSON lines, one object a face."),
        click.option(
            "--faces",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Parquet file of the folder's faces, as `jetface embed` writes it; default: one in the cache.",
        ),
        click.option("--min-quality", type=click.FloatRange(0, 1), default=0.0, help="Leave out poorer faces."),
        click.option("--threshold", type=click.FloatRange(-1, 1), help="Least similarity; default: the recognizer's."),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FolderFaces:
    """The faces of a folder's pictures."""

    folder: Path
    table: pa.Table
    """One row a face; see `jetface.cli.face_table.schema_of`."""
    vectors: NDArray[np.float32]
    """Their embeddings, (N, L)."""
    pictures: dict[str, Path]
    """Where each picture of the folder lies, by what it is called in the table."""
    threshold: float
    """Least similarity of one person."""
    summary: Summary
    skipped: Counter[str]

    def shown(self, name: str) -> str:
        """Return a picture's path as the folder was given."""
        return f"{readable_name(self.folder)}/{name}"

    def show(self, rows: list[int], form: str, **more: pa.Array) -> None:
        """Print rows of the table in a format, with more columns behind."""
        table = self.table.take(pa.array(rows, pa.int64())).select(_SHOWN)
        paths = [self.shown(name) for name in table["path"].to_pylist()]
        table = table.set_column(0, "path", pa.array(paths, pa.string()))
        for name, values in more.items():
            table = table.append_column(name, values)
        FORMATS[form].write(sys.stdout.buffer, table.schema, iter([table]))
        sys.stdout.buffer.flush()

    def end(self, told: str, *, strict: bool) -> None:
        """Say what was found, and what was skipped.

        Raises:
            click.ClickException: A picture failed, or was skipped and `strict` is set.
        """
        click.echo(f"{told}; {len(self.pictures)} pictures, {self.summary.num_pictures} looked at now", err=True)
        tell_skipped(self.skipped, strict=strict and not self.summary.num_failed)
        self.summary.check()


async def look_at(service: Service, folder: Path, asked: Asked) -> FolderFaces:
    """Find and embed the faces of a folder with all below it, but for those that an earlier run has found.

    Raises:
        click.ClickException: There are no pictures, or the file that keeps the faces is another's.
    """
    if asked.faces is not None and asked.faces.suffix != ".parquet":
        raise click.UsageError("--faces is a Parquet file: its name ends in .parquet")
    skipped: Counter[str] = Counter()
    sources = find_sources(str(folder), service.settings, skipped=skipped)
    out = _cached(folder, service) if asked.faces is None else asked.faces
    summary = await embed_pictures(sources, out, embedder_of(service, Wish()), chunk=_CHUNK)
    table = pq.read_table(out)
    pictures = {source.name: Path(source.address) for source in sources}
    is_wanted = pc.is_in(table["path"], pa.array(list(pictures), pa.string()))
    if asked.min_quality:
        is_wanted = pc.and_(is_wanted, pc.greater_equal(table["quality"], asked.min_quality))
    table = table.filter(is_wanted)
    return FolderFaces(
        folder=folder,
        table=table,
        vectors=vectors_of(table),
        pictures=pictures,
        threshold=service.match_threshold if asked.threshold is None else asked.threshold,
        summary=summary,
        skipped=skipped,
    )


def _cached(folder: Path, service: Service) -> Path:
    """Return where the faces of a folder are kept, for its owner alone; those of others that are old are removed."""
    key = orjson.dumps([readable_name(folder.resolve()), list(service.chosen.names), service.score_threshold])
    place = cache_dir() / "faces"
    file = place / f"{hashlib.sha256(key).hexdigest()[:32]}.parquet"
    oldest_s = time.time() - _KEPT_DAYS * 86_400
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        old = [each for each in place.glob("*.parquet") if each != file and each.stat().st_mtime < oldest_s]
        for each in old:
            each.unlink(missing_ok=True)
    except OSError as cause:
        raise click.ClickException(f"{place} cannot be used, name a file by --faces: {cause.strerror}") from cause
    if old:
        click.echo(f"removed from {place}, older than {_KEPT_DAYS} days: {len(old)}", err=True)
    return file


async def _face_of(service: Service, who: Path) -> Vector:
    """Return the embedding of a picture's largest face."""
    source = Source(str(who), readable_name(who), service.settings.max_body_bytes)
    async for _, result in each_in_order([source], embedder_of(service, Wish()).embed):
        if result.error is not None:
            raise click.ClickException(f"{readable_name(who)}: {result.error.message}")
        largest = max(result.faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])), default=None)
        if largest is None or largest.embedding is None:
            break
        if len(result.faces) > 1:
            click.echo(f"{readable_name(who)} shows {len(result.faces)} faces; the largest is looked for", err=True)
        return largest.embedding.vector
    raise click.ClickException(f"{readable_name(who)}: no face found")


@click.command()
@click.argument("who", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="WHO.jpg")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@folder_options
def find(*, who: Path, folder: Path, **asked: Any) -> None:
    """Find the pictures of FOLDER, and of all below it, that show who is on WHO.jpg.

    Prints each face that is similar enough, most alike first. The faces of the folder are kept: a second run, for
    somebody else or after an interruption, looks only at pictures that are new or were changed. Exit code 1 when a
    picture failed.
    """
    wanted = Asked(**asked)
    settings = read_settings()
    configure_quiet_logs(settings)

    async def look() -> tuple[Vector, FolderFaces]:
        async with open_service(settings) as service:
            return await _face_of(service, who), await look_at(service, folder, wanted)

    vector, there = asyncio.run(look())
    found = FaceIndex(there.vectors).alike(vector, there.threshold) if len(there.vectors) else []
    rows, similarities = [face.id for face in found], [face.similarity for face in found]
    if wanted.form is not None:
        there.show(rows, wanted.form, similarity=pa.array(similarities, pa.float32()))
    else:
        for row, similarity in zip(there.table.take(pa.array(rows, pa.int64())).to_pylist(), similarities, strict=True):
            x1, y1, x2, y2 = map(round, row["box"])
            click.echo(f"{there.shown(row['path'])}: {similarity:.3f}  box {x1},{y1} {x2},{y2}")
    there.end(f"{len(found)} of {len(there.vectors)} faces are as similar as {there.threshold:g}", strict=wanted.strict)
