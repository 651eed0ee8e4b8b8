"""The client for asyncio."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar, final

import httpx
from numpy.typing import ArrayLike

from jetface_client import calls
from jetface_client.calls import Call
from jetface_client.exchange import (
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    KEPT_CONNECTIONS,
    Config,
    Outcome,
    Reply,
    Step,
    Wait,
    exchange,
    stream,
    stream_error,
)
from jetface_client.flights import AsyncFlights, in_thread, pause
from jetface_client.gallery import (
    CollectionCalls,
    CollectionInfo,
    Enrolled,
    EnrolOptions,
    FoundFace,
    Imported,
    Person,
    SearchedPicture,
    SearchOptions,
    StoredFace,
    bound,
    create_collection_call,
    lines_of,
    list_collections_call,
    new_file,
    parts_of,
)
from jetface_client.options import ExtractOptions, Rotations
from jetface_client.results import Comparison, ComparisonMatrix, Info, Model, Picture, PlatesPicture, Readiness
from jetface_client.retries import RetryPolicy
from jetface_client.sources import PictureSource, Progress, find_pictures, unreadable

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Ask(Protocol):
    """Sends a call and returns its result."""

    async def __call__(self, build: Callable[[], Call[Result]]) -> Result:
        """Send what `build` returns; reading its files blocks nobody."""
        ...


class Stream(Protocol):
    """Reads an answer as it comes."""

    def __call__(self, path: str) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of what is there."""
        ...


class AsyncCollections:
    """The collections of a service: `client.collections["people"]`. Asks nothing before a method is called."""

    def __init__(self, ask: Ask, stream: Stream) -> None:
        self._ask = ask
        self._stream = stream

    def __getitem__(self, name: str) -> AsyncCollection:
        """Return a collection by its name, whether or not it is there."""
        return AsyncCollection(name, self._ask, self._stream)

    async def create(self, name: str, metadata: Mapping[str, Any] | None = None) -> AsyncCollection:
        """Make a collection, pinned to the recognizer that serves; one that is there already is returned."""
        await self._ask(lambda: create_collection_call(name, metadata or {}))
        return self[name]

    async def list(self) -> list[CollectionInfo]:
        """List the collections."""
        return await self._ask(list_collections_call)


class AsyncCollection:
    """The persons of one collection. Methods raise the errors of `jetface_client.errors`."""

    def __init__(self, name: str, ask: Ask, stream: Stream) -> None:
        self.name = name
        self._ask = ask
        self._stream = stream
        self._calls = CollectionCalls(name)

    async def info(self) -> CollectionInfo:
        """Tell what it holds."""
        return await self._ask(self._calls.info)

    async def delete(self) -> CollectionInfo:
        """Delete it with all that is in it."""
        return await self._ask(self._calls.delete)

    async def add_person(
        self, person_id: str | None = None, *, name: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Person:
        """Add a person; one of that id, name and metadata that is there already is returned."""
        return await self._ask(lambda: self._calls.add_person(person_id, name, metadata or {}))

    async def person(self, person_id: str) -> Person:
        """Tell of a person."""
        return await self._ask(lambda: self._calls.person(person_id))

    async def persons(self) -> AsyncIterator[Person]:
        """Yield every person, in the order in which they were added."""
        after: str | None = ""
        while after is not None:
            page = await self._ask(bound(self._calls.persons, after))
            for person in page.items:
                yield person
            after = page.next

    async def change_person(
        self, person_id: str, *, name: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Person:
        """Change what is given of a person."""
        return await self._ask(lambda: self._calls.change_person(person_id, name, metadata))

    async def delete_person(self, person_id: str) -> Person:
        """Delete a person and its faces, for good."""
        return await self._ask(lambda: self._calls.delete_person(person_id))

    async def enrol(
        self,
        person_id: str,
        pictures: Sequence[PictureSource],
        options: EnrolOptions = EnrolOptions(),  # noqa: B008 - frozen
        *,
        name: str | None = None,
        face_ids: Sequence[str] | None = None,
    ) -> list[Enrolled]:
        """Enrol pictures of a person, who is added if new; each is stored or refused by itself."""
        return await self._ask(lambda: self._calls.enrol(person_id, pictures, options, name, face_ids))

    async def enrol_vectors(
        self,
        person_id: str,
        vectors: ArrayLike,
        options: EnrolOptions = EnrolOptions(),  # noqa: B008 - frozen
        *,
        name: str | None = None,
        face_ids: Sequence[str] | None = None,
    ) -> list[Enrolled]:
        """Enrol (N, L) embeddings of the collection's recognizer."""
        return await self._ask(lambda: self._calls.enrol_vectors(person_id, vectors, options, name, face_ids))

    async def faces(self, person_id: str) -> AsyncIterator[StoredFace]:
        """Yield the faces of a person, in the order in which they were enrolled."""
        after: str | None = ""
        while after is not None:
            page = await self._ask(bound(self._calls.faces, person_id, after))
            for face in page.items:
                yield face
            after = page.next

    async def delete_faces(self, face_ids: Sequence[str]) -> list[str]:
        """Delete those faces that are there, for good; return their ids."""
        return await self._ask(lambda: self._calls.delete_faces(face_ids))

    async def search(
        self,
        picture: PictureSource,
        options: SearchOptions = SearchOptions(),  # noqa: B008 - frozen
    ) -> tuple[FoundFace, ...]:
        """Tell of every face of a picture who it may be.

        Raises:
            PictureError: The service cannot read the picture.
        """
        return await self._ask(lambda: self._calls.search(picture, options))

    async def search_many(
        self,
        pictures: Sequence[PictureSource],
        options: SearchOptions = SearchOptions(),  # noqa: B008 - frozen
    ) -> list[SearchedPicture]:
        """Search for the faces of several pictures in one request; one that cannot be read fails in its slot."""
        return await self._ask(lambda: self._calls.search_many(pictures, options))

    async def search_vectors(
        self,
        vectors: ArrayLike,
        options: SearchOptions = SearchOptions(),  # noqa: B008 - frozen
    ) -> list[FoundFace]:
        """Search for (N, L) embeddings of the collection's recognizer."""
        return await self._ask(lambda: self._calls.search_vectors(vectors, options))

    async def export(self, path: str | os.PathLike[str]) -> None:
        """Write all of it into a new file, a line of JSON each person and face; whole, or no file is there.

        Embeddings and kept crops are among it, so the key has to be one that may write.
        """
        with new_file(path) as write:
            async with aclosing(self._stream(self._calls.export_path)) as pieces:
                async for piece in pieces:
                    await in_thread(write, piece)

    async def export_lines(self) -> AsyncGenerator[bytes, None]:
        """Yield what `export` writes, a line with its end at a time."""
        rest = b""
        async with aclosing(self._stream(self._calls.export_path)) as pieces:
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield line + b"\n"

    async def import_(self, path: str | os.PathLike[str]) -> Imported:
        """Add what `export` has written; the collection is made if missing, and what is there already stays as it is.

        Sent in parts, each stored whole or not at all; after an error a second call takes up where the first ended.
        """
        return await self.import_lines(lines_of(path))

    async def import_lines(self, lines: Iterable[bytes]) -> Imported:
        """Add what `export_lines` has yielded; as `import_`."""
        done = Imported()
        parts = parts_of(lines)
        while part := await in_thread(next, parts, b""):
            done += await self._ask(bound(self._calls.import_part, part))
        return done


@final
class AsyncClient:
    """Calls a jetface service. Belongs to one event loop; it keeps its connections. Close it, or `async with` it.

    Every method raises the errors of `jetface_client.errors`, and `OSError` for a file it cannot read.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """Create a client; nothing is sent.

        Args:
            base_url: Of the service; may end in a path that a proxy strips.
            api_key: Sent as `Authorization: Bearer`.
            timeout_s: Of a whole call, retries included; the service is told and gives up by then, too.
            retries: When to try again.
            http: A client of your own, for certificates or proxies; stays yours to close.

        Raises:
            ValueError: `base_url` is no http(s) URL, or `timeout_s` not above 0.
        """
        self._config = Config(base_url=base_url, api_key=api_key, timeout_s=timeout_s, retries=retries)
        self._owned: httpx.AsyncClient | None = None
        if http is None:
            http = self._owned = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=KEPT_CONNECTIONS))
        self._http = http

    async def extract(self, picture: PictureSource, options: ExtractOptions = ExtractOptions()) -> Picture:  # noqa: B008 - frozen
        """Find the faces of a picture, and embed them.

        Raises:
            PictureError: The service cannot read the picture.
        """
        return await self._ask(calls.extract_call, picture, options)

    async def extract_many(
        self,
        pictures: Sequence[PictureSource],
        options: ExtractOptions = ExtractOptions(),  # noqa: B008 - frozen
    ) -> list[Picture]:
        """Find and embed the faces of several pictures in one request; one that cannot be read fails in its slot."""
        return await self._ask(calls.extract_many_call, pictures, options)

    async def extract_folder(
        self,
        folder: str | os.PathLike[str],
        options: ExtractOptions = ExtractOptions(),  # noqa: B008 - frozen
        *,
        concurrency: int = 8,
        progress: Progress | None = None,
        skipped: Counter[str] | None = None,
    ) -> AsyncGenerator[tuple[Path, Picture], None]:
        """Yield each picture file of a folder and all below it with its faces, in order of name.

        Args:
            folder: Searched as `find_pictures` does.
            options: What is wanted of each.
            concurrency: Requests in flight, and pictures in memory, at once; fewer than the service's MAX_IN_FLIGHT.
            progress: Called as `progress(num_done, num_all)` after each picture.
            skipped: Counts by reason the other files of the folder, before the first picture is yielded.

        Yields:
            The path and what came of it; a picture or file that cannot be read has its `failure`. Who leaves early
            does so inside `contextlib.aclosing`, which ends the requests in flight at once.
        """
        paths = await in_thread(find_pictures, folder, skipped=skipped)
        files = self.extract_files(paths, options, concurrency=concurrency, progress=progress)
        async with aclosing(files):
            async for item in files:
                yield item

    async def extract_files(
        self,
        paths: Sequence[str | os.PathLike[str]],
        options: ExtractOptions = ExtractOptions(),  # noqa: B008 - frozen
        *,
        concurrency: int = 8,
        progress: Progress | None = None,
    ) -> AsyncGenerator[tuple[Path, Picture], None]:
        """Yield each of `paths` with its faces, in their order; as `extract_folder`."""
        if concurrency < 1:
            raise ValueError("concurrency is at least 1")
        num_done = 0
        async with AsyncFlights[Picture](concurrency) as flights:
            for path in map(Path, paths):
                if flights.are_full:
                    num_done += 1
                    yield await self._landed(flights, num_done, len(paths), progress)
                flights.start(path, self._extract_file, path, options)
            while flights:
                num_done += 1
                yield await self._landed(flights, num_done, len(paths), progress)

    async def detect(
        self,
        picture: PictureSource,
        *,
        threshold: float | None = None,
        limit_faces: int = 0,
        min_face_size: int = 0,
        rotations: Rotations = "none",
    ) -> Picture:
        """Find the faces of a picture: boxes, scores and landmarks as floats, the picture's size; no embeddings.

        Raises:
            PictureError: The service cannot read the picture.
        """
        return await self._ask(
            calls.detect_call,
            picture,
            threshold=threshold,
            limit_faces=limit_faces,
            min_face_size=min_face_size,
            rotations=rotations,
        )

    async def detect_many(
        self,
        pictures: Sequence[PictureSource],
        *,
        threshold: float | None = None,
        limit_faces: int = 0,
        min_face_size: int = 0,
        rotations: Rotations = "none",
    ) -> list[Picture]:
        """Find the faces of several pictures in one request; one that cannot be read fails in its slot."""
        return await self._ask(
            calls.detect_many_call,
            pictures,
            threshold=threshold,
            limit_faces=limit_faces,
            min_face_size=min_face_size,
            rotations=rotations,
        )

    async def recognize(
        self,
        picture: PictureSource,
        *,
        landmarks: ArrayLike | None = None,
        boxes: ArrayLike | None = None,
        rotations: Rotations = "none",
    ) -> Picture:
        """Embed an aligned crop; or faces of a full picture, given their `landmarks` (N, 5, 2) or `boxes` (N, 4).

        Raises:
            PictureError: The service cannot read the picture.
        """
        return await self._ask(calls.recognize_call, picture, landmarks=landmarks, boxes=boxes, rotations=rotations)

    async def recognize_many(
        self,
        pictures: Sequence[PictureSource],
        *,
        landmarks: Sequence[ArrayLike] | None = None,
        boxes: Sequence[ArrayLike] | None = None,
        rotations: Rotations = "none",
    ) -> list[Picture]:
        """As `recognize`, for several pictures in one request: `landmarks` or `boxes` hold one array a picture."""
        return await self._ask(
            calls.recognize_many_call, pictures, landmarks=landmarks, boxes=boxes, rotations=rotations
        )

    async def plates(
        self, picture: PictureSource, *, threshold: float | None = None, limit: int = 0, min_width: int = 0
    ) -> PlatesPicture:
        """Find the licence plates of a picture, and read them.

        Args:
            picture: The picture.
            threshold: Least score of the detector; None takes what suits it.
            limit: Only the N largest plates; 0: all.
            min_width: Drop plates whose box is narrower, pixels.

        Raises:
            PictureError: The service cannot read the picture.
            RequestRefusedError: Among others: reading plates is off there, `not_found`.
        """
        return await self._ask(calls.plates_call, picture, threshold=threshold, limit=limit, min_width=min_width)

    async def plates_many(
        self, pictures: Sequence[PictureSource], *, threshold: float | None = None, limit: int = 0, min_width: int = 0
    ) -> list[PlatesPicture]:
        """Find and read the plates of several pictures in one request; one that cannot be read fails in its slot."""
        return await self._ask(calls.plates_many_call, pictures, threshold=threshold, limit=limit, min_width=min_width)

    async def compare(
        self,
        first: PictureSource,
        second: PictureSource,
        *,
        threshold: float | None = None,
        detection_threshold: float | None = None,
        rotations: Rotations = "none",
    ) -> Comparison:
        """Compare the largest face of two pictures.

        `threshold` is the least similarity of one person; None takes what suits the service's recognizer.
        """
        return await self._ask(
            calls.compare_call,
            first,
            second,
            threshold=threshold,
            detection_threshold=detection_threshold,
            rotations=rotations,
        )

    async def compare_many(
        self,
        pictures: Sequence[PictureSource],
        others: Sequence[PictureSource],
        *,
        threshold: float | None = None,
        detection_threshold: float | None = None,
        rotations: Rotations = "none",
    ) -> ComparisonMatrix:
        """Compare the largest face of each of `pictures` with that of each of `others`."""
        return await self._ask(
            calls.compare_many_call,
            pictures,
            others,
            threshold=threshold,
            detection_threshold=detection_threshold,
            rotations=rotations,
        )

    @property
    def collections(self) -> AsyncCollections:
        """The collections of the service's gallery."""
        return AsyncCollections(self._ask, self._stream)

    async def info(self) -> Info:
        """Tell what runs there."""
        return await self._ask(calls.info_call)

    async def models(self) -> list[Model]:
        """List the service's registry."""
        return await self._ask(calls.models_call)

    async def ready(self) -> Readiness:
        """Tell whether requests can be served now; asked once, never repeated."""
        return await self._ask(calls.ready_call)

    async def aclose(self) -> None:
        """Close the connections, unless `http` was given."""
        if self._owned is not None:
            await self._owned.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _ask(
        self, build: Callable[Parameters, Call[Result]], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        steps = exchange(await in_thread(build, *args, **kwargs), self._config, now=time.monotonic)
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                result: Result = end.value
                return result
            outcome = await self._take(step)

    async def _take(self, step: Step) -> Outcome:
        if isinstance(step, Wait):
            await pause(step.delay_s)
            return None
        try:
            answer = await self._http.request(
                step.method, step.url, headers=step.headers, content=step.content, timeout=step.timeout
            )
        except httpx.RequestError as cause:
            return cause
        return Reply(answer.status_code, answer.headers, answer.content)

    async def _stream(self, path: str) -> AsyncGenerator[bytes, None]:
        sent = stream(path, self._config)
        try:
            async with self._http.stream(sent.method, sent.url, headers=sent.headers, timeout=sent.timeout) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise stream_error(Reply(answer.status_code, answer.headers, await answer.aread()), sent)
                async for piece in answer.aiter_bytes():
                    yield piece
        except httpx.RequestError as cause:
            raise stream_error(cause, sent) from cause

    async def _landed(
        self, flights: AsyncFlights[Picture], num_done: int, num_all: int, progress: Progress | None
    ) -> tuple[Path, Picture]:
        """Return the picture that was asked for first of those in flight."""
        landed = await flights.land()
        if progress is not None:
            progress(num_done, num_all)
        return landed

    async def _extract_file(self, path: Path, options: ExtractOptions) -> Picture:
        try:
            return (await self.extract_many([path], options))[0]
        except OSError as cause:
            return unreadable(cause)
