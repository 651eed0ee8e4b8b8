"""`jetface embed`: the faces of pictures into one file, by this process or by a running service."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import numpy as np
from tqdm import tqdm

from jetface.cli.face_table import FORMATS, FaceTable, Model, open_table
from jetface.cli.pictures import Wish, each_in_order, readable_name, tell_skipped, wish_options
from jetface.cli.quiet import configure_quiet_logs
from jetface.cli.sources import Source, find
from jetface.domain import Embedding, Face, HeadPose, LandmarksFrom, PictureResult, Quality
from jetface.errors import ImageDecodeError
from jetface.imaging.sources import EncodedPicture
from jetface.service import Service, open_service
from jetface.settings import Settings, read_settings

if TYPE_CHECKING:
    import jetface_client

_PATIENCE_S = 300.0
_ATTEMPTS = 40
"""A picture may wait until a busy service has a place, or a new one has taken over: long runs outlive both."""


@dataclass(frozen=True, slots=True)
class Embedder:
    """Finds and embeds faces."""

    model: Model
    """Whose embeddings it makes."""
    embed: Callable[[Source, EncodedPicture, float], Coroutine[Any, Any, PictureResult]]
    """Says what comes of a picture, until a deadline."""


def embedder_of(service: Service, wish: Wish) -> Embedder:
    """Return a service's own pipeline.

    Raises:
        click.ClickException: It has no recognizer.
    """
    options = wish.options(service, with_quality=True)

    async def embed(_: Source, picture: EncodedPicture, deadline: float) -> PictureResult:
        (result,) = await service.extractor.extract([picture], options, deadline=deadline)
        return result

    return Embedder(
        _recognizer({name: service.store.spec(name).embedding_length for name in service.chosen.names}), embed
    )


@asynccontextmanager
async def in_process(settings: Settings, wish: Wish) -> AsyncIterator[Embedder]:
    """Open the pipeline of a service without HTTP; errors are those of `embedder_of`."""
    async with open_service(settings) as service:
        yield embedder_of(service, wish)


@asynccontextmanager
async def by_server(url: str, api_key: str | None, wish: Wish) -> AsyncIterator[Embedder]:
    """Open a running service through the client library.

    Raises:
        click.ClickException: The client library is not installed; or the service answers with an error, or not at all.
    """
    try:
        import jetface_client as remote  # noqa: PLC0415 - a distribution of its own, which not everyone has
    except ImportError as cause:
        raise click.ClickException("--url needs the client library: pip install jetface-client") from cause
    options = remote.ExtractOptions(
        threshold=wish.threshold,
        limit_faces=wish.limit_faces,
        min_face_size=wish.min_face_size,
        rotations=wish.rotations,
        min_quality=wish.min_quality,
        quality=True,
    )
    try:
        patience = remote.RetryPolicy(num_attempts=_ATTEMPTS)
        async with remote.AsyncClient(url, api_key=api_key, timeout_s=_PATIENCE_S, retries=patience) as client:
            # Once, without patience: nobody listens at a mistyped address in five minutes either.
            await client.ready()
            lengths = {model.name: model.embedding_length for model in await client.models() if model.is_active}

            async def embed(_: Source, picture: EncodedPicture, __: float) -> PictureResult:
                try:
                    found = await client.extract(picture.data, options)
                except remote.PictureError as cause:
                    return PictureResult(image_index=0, error=ImageDecodeError(str(cause)))
                return PictureResult(image_index=0, faces=tuple(map(_face, found.faces)))

            yield Embedder(_recognizer(lengths), embed)
    except (remote.JetfaceError, ValueError) as cause:
        raise click.ClickException(str(cause)) from cause


def _recognizer(embedding_lengths: Mapping[str, int | None]) -> Model:
    """Return the one model in use that makes embeddings."""
    for name, length in embedding_lengths.items():
        if length is not None:
            return Model(name, length)
    raise click.ClickException("embeddings need a recognizer, and there REC_MODEL is none")


def _face(found: jetface_client.Face) -> Face:
    if found.box is None or found.landmarks is None or found.embedding is None:
        raise click.ClickException("the service left out what was asked for: is it jetface?")
    return Face(
        image_index=0,
        box=found.box,
        score=found.score or 0.0,
        landmarks=found.landmarks,
        landmarks_from=cast("LandmarksFrom | None", found.landmarks_from),
        visible=found.visible,
        embedding=Embedding(np.asarray(found.embedding), found.norm or 0.0),
        quality=None if found.quality is None else _quality(found.quality),
    )


def _quality(found: jetface_client.Quality) -> Quality:
    return Quality(
        score=found.score,
        sharpness=found.sharpness,
        brightness=found.brightness,
        size_px=found.size_px,
        pose=HeadPose(found.yaw, found.pitch, found.roll),
    )


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a run has done."""

    num_before: int
    """Pictures that were there."""
    num_pictures: int = 0
    """Looked at now; those that failed included."""
    num_failed: int = 0
    num_faces: int = 0
    """In all of a file; of `bulk`, in what was looked at now."""

    def check(self) -> None:
        """Raise click.ClickException where a picture failed."""
        if self.num_failed:
            raise click.ClickException(f"{self.num_failed} of {self.num_pictures} pictures failed")


async def embed_pictures(sources: Sequence[Source], out: Path, embedder: Embedder, *, chunk: int) -> Summary:
    """Bring a table up to its pictures: those it holds are skipped, unless they failed or were changed since.

    Args:
        sources: The pictures.
        out: File of one of the `FORMATS`.
        embedder: Finds and embeds the faces.
        chunk: Pictures a part; a run that is killed loses no more.

    Raises:
        click.ClickException: The table cannot be written; see `open_table`.
        ServiceError: What is wrong is not a picture but the service. What was found until then is kept.
    """
    with open_table(out, embedder.model) as table:
        new = [source for source in sources if not table.has(source.name, source.changed_s())]
        num_before = len(sources) - len(new)
        num_failed = await _embed_each(new, table, embedder, chunk=chunk, num_before=num_before)
        return Summary(num_faces=table.finish(), num_before=num_before, num_pictures=len(new), num_failed=num_failed)


async def _embed_each(
    sources: Sequence[Source], table: FaceTable, embedder: Embedder, *, chunk: int, num_before: int
) -> int:
    """Add every picture to the table; return how many failed."""
    num_failed = 0
    pending: list[tuple[str, PictureResult]] = []
    results = each_in_order(sources, embedder.embed)
    num_all = num_before + len(sources)
    try:
        with tqdm(total=num_all, initial=num_before, unit="picture", file=sys.stderr, disable=None) as progress:
            async with aclosing(results):
                async for source, result in results:
                    progress.update()
                    if result.error is not None:
                        num_failed += 1
                        with tqdm.external_write_mode(file=sys.stderr):
                            click.echo(f"{readable_name(source.address)}: failed: {result.error.message}", err=True)
                    pending.append((source.name, result))
                    if len(pending) == chunk:
                        table.add(pending)
                        pending = []
    finally:
        # Interrupted or failed: what is known by now need not be found again.
        table.add(pending)
    return num_failed


@click.command()
@click.argument("source")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"File, one row a face; its ending says the format: {', '.join(FORMATS)}.",
)
@click.option("--url", help="A running service to ask, such as http://localhost:18080; else this process does it.")
@click.option("--api-key", envvar="JETFACE_API_KEY", help="Of the service at --url; or the variable JETFACE_API_KEY.")
@wish_options
@click.option("--column", default="path", show_default=True, help="Of a list, where its paths and URLs stand.")
@click.option("--chunk", type=click.IntRange(1), default=256, show_default=True, help="Pictures a part of the file.")
@click.option("--strict", is_flag=True, help="Exit code 1, too, when files of the folder were skipped.")
def embed(
    *, source: str, out: Path, url: str | None, api_key: str | None, column: str, chunk: int, strict: bool, **wish: Any
) -> None:
    """Embed the faces of all pictures of a folder, a glob or a list into one file, on this machine.

    SOURCE is a folder with all below it, a glob in quotes, or a list of paths and URLs (.csv, .parquet, .txt), each
    here or on an object store. A second run adds what is new, failed before, or was changed since. A run that is killed
    is taken up where it was; it loses at most one chunk. Exit code 1 when a picture failed. Millions of pictures, or
    several machines: `jetface bulk`.
    """
    settings = read_settings()
    configure_quiet_logs(settings)
    skipped: Counter[str] = Counter()
    opening = by_server(url, api_key, Wish(**wish)) if url else in_process(settings, Wish(**wish))

    async def run(opening: AbstractAsyncContextManager[Embedder]) -> tuple[Model, Summary]:
        sources = find(source, settings, column=column, skipped=skipped)
        async with opening as embedder:
            return embedder.model, await embed_pictures(sources, out, embedder, chunk=chunk)

    model, summary = asyncio.run(run(opening))
    before = f", {summary.num_before} more were there" if summary.num_before else ""
    click.echo(
        f"{readable_name(out)}: {summary.num_faces} faces of {model.name}; {summary.num_pictures} pictures{before}"
    )
    tell_skipped(skipped, strict=strict and not summary.num_failed)
    summary.check()
