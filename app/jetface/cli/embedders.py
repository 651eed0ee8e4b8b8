"""Who finds and embeds the faces for `jetface embed`: this process, or a running service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import numpy as np

from jetface.cli.face_table import Model
from jetface.cli.pictures import PICTURES_AT_ONCE, Picture, extract_each
from jetface.domain import Embedding, ExtractOptions, Face, PictureResult, Rotations
from jetface.errors import ImageDecodeError
from jetface.service import open_service
from jetface.settings import Settings

if TYPE_CHECKING:
    import jetface_client

_PATIENCE_S = 300.0
_ATTEMPTS = 40
"""A picture may wait until a busy service has a place, or a new one has taken over: long runs outlive both."""

Results = AsyncGenerator[tuple[Picture, PictureResult], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which faces are wanted."""

    threshold: float | None
    """Least detector score; None: the default of who finds them."""
    limit_faces: int
    min_face_size: int
    rotations: Rotations
    min_quality: float


@dataclass(frozen=True, slots=True)
class Embedder:
    """Finds and embeds faces."""

    model: Model
    """Whose embeddings it makes."""
    embed: Callable[[Sequence[Picture]], Results]
    """Yields what comes of each picture, in order."""


@asynccontextmanager
async def in_process(settings: Settings, wish: Wish) -> AsyncIterator[Embedder]:
    """Open the service's own pipeline.

    Raises:
        click.ClickException: The settings name no recognizer.
    """
    async with open_service(settings) as service:
        options = ExtractOptions(
            score_threshold=service.score_threshold if wish.threshold is None else wish.threshold,
            limit_faces=wish.limit_faces,
            min_face_width_px=wish.min_face_size,
            rotations=wish.rotations,
            min_quality=wish.min_quality,
        )
        lengths = {name: service.store.spec(name).embedding_length for name in service.chosen.names}
        yield Embedder(_recognizer(lengths), lambda pictures: extract_each(service, pictures, options))


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
    )
    try:
        patience = remote.RetryPolicy(num_attempts=_ATTEMPTS)
        async with remote.AsyncClient(url, api_key=api_key, timeout_s=_PATIENCE_S, retries=patience) as client:
            # Once, without patience: nobody listens at a mistyped address in five minutes either.
            await client.ready()
            lengths = {model.name: model.embedding_length for model in await client.models() if model.is_active}

            async def embed(pictures: Sequence[Picture]) -> Results:
                by_path = iter(pictures)
                files = client.extract_files(
                    [picture.path for picture in pictures], options, concurrency=PICTURES_AT_ONCE
                )
                async with aclosing(files):
                    async for _, found in files:
                        yield next(by_path), _result(found)

            yield Embedder(_recognizer(lengths), embed)
    except (remote.JetfaceError, ValueError) as cause:
        raise click.ClickException(str(cause)) from cause


def _recognizer(embedding_lengths: Mapping[str, int | None]) -> Model:
    """Return the one model in use that makes embeddings."""
    for name, length in embedding_lengths.items():
        if length is not None:
            return Model(name, length)
    raise click.ClickException("embeddings need a recognizer, and there REC_MODEL is none")


def _result(found: jetface_client.Picture) -> PictureResult:
    if found.failure is not None:
        return PictureResult(image_index=0, error=ImageDecodeError(found.failure.message))
    return PictureResult(image_index=0, faces=tuple(map(_face, found.faces)))


def _face(found: jetface_client.Face) -> Face:
    if found.box is None or found.landmarks is None or found.embedding is None:
        raise click.ClickException("the service left out what was asked for: is it jetface?")
    return Face(
        image_index=0,
        box=found.box,
        score=found.score or 0.0,
        landmarks=found.landmarks,
        embedding=Embedding(np.asarray(found.embedding), found.norm or 0.0),
    )
