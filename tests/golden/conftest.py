"""The service without HTTP, on real weights, called from plain functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from jetface.domain import ExtractOptions, KnownFaces, PictureResult, PlateOptions
from jetface.imaging.sources import EncodedPicture
from jetface.service import Service, open_service
from jetface.settings import Settings

T = TypeVar("T")

PICTURES_PER_CALL = 16
"""Pictures of one `extract` call: a request's worth."""

DEADLINE_S = 100.0
"""Longest a call may take."""


class SyncService:
    """A service on an event loop of its own, driven from outside of it."""

    def __init__(self, service: Service, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.settings = service.settings
        self._service = service
        self._run = run

    def extract(self, pictures: Sequence[bytes], **options: Any) -> list[PictureResult]:
        """Return the result of each encoded picture; options are those of `ExtractOptions`, threshold by default."""
        wanted = ExtractOptions(**{"score_threshold": self._service.score_threshold, **options})
        return self._in_parts(
            pictures, lambda part, deadline: self._service.extractor.extract(part, wanted, deadline=deadline)
        )

    def find_plates(self, pictures: Sequence[bytes], **options: Any) -> list[PictureResult]:
        """Return the result of each encoded picture; options are those of `PlateOptions`."""
        finder = self._service.plates
        assert finder is not None
        return self._in_parts(
            pictures, lambda part, deadline: finder.find(part, PlateOptions(**options), deadline=deadline)
        )

    def embed_crops(self, crops: Sequence[bytes]) -> list[PictureResult]:
        """Return the embedding of each encoded crop."""
        return self._in_parts(
            crops, lambda part, deadline: self._service.extractor.embed_crops(part, deadline=deadline)
        )

    def recognize(self, picture: bytes, known: KnownFaces) -> PictureResult:
        """Return the result of one encoded picture whose faces are known."""

        async def call() -> PictureResult:
            deadline = asyncio.get_running_loop().time() + DEADLINE_S
            (result,) = await self._service.extractor.recognize([EncodedPicture(picture)], [known], deadline=deadline)
            return result

        result: PictureResult = self._run(call())
        return result

    def _in_parts(self, pictures: Sequence[bytes], call: Callable[..., Any]) -> list[PictureResult]:
        async def all_parts() -> list[PictureResult]:
            results: list[PictureResult] = []
            for start in range(0, len(pictures), PICTURES_PER_CALL):
                part = [EncodedPicture(data) for data in pictures[start : start + PICTURES_PER_CALL]]
                results += await call(part, asyncio.get_running_loop().time() + DEADLINE_S)
            return results

        results: list[PictureResult] = self._run(all_parts())
        return results


@pytest.fixture(scope="session")
def serve(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return a context manager: settings by field name -> a `SyncService`. Prepared graphs are shared."""
    folder = tmp_path_factory.mktemp("models")

    @contextmanager
    def serving(**settings: Any) -> Iterator[SyncService]:
        loop = asyncio.new_event_loop()
        opened = open_service(
            Settings(
                models_dir=folder,
                model_mirror=str(shared_models),
                # Not `auto`, which measures and may decide differently from one run to the next.
                **{"det_model": "det_500m", "backend": "onnxruntime", **settings},
            )
        )
        try:
            yield SyncService(loop.run_until_complete(opened.__aenter__()), loop.run_until_complete)
        finally:
            loop.run_until_complete(opened.__aexit__(None, None, None))
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    return serving
