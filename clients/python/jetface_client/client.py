"""The client for threads. `unasync.py` writes it from `async_client.py`: change that."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
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
from jetface_client.flights import Flights, here, wait
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

    def __call__(self, build: Callable[[], Call[Result]]) -> Result:
        """Send what `build` returns; reading its files blocks nobody."""
        ...


class Stream(Protocol):
    """Reads an answer as it comes."""

    def __call__(self, path: str) -> Generator[bytes, None, None]:
        """Yield the pieces of what is there."""
        ...


class Collections:
    """The collections of a service: `client.collections["people"]`. Asks nothing before a method is called."""

    def __init__(self, ask: Ask, stream: Stream) -> None:
        self._ask = ask
        self._stream = stream

    def __getitem__(self, name: str) -> Collection:
        """Return a collection by its name, whether or not it is there."""
        return Collection(name, self._ask, self._stream)

    def create(self, name: str, metadata: Mapping[str, Any] | None = None) -> Collection:
        """Make a collection, pinned to the recognizer that serves; one that is there already is returned."""
        self._ask(lambda: create_collection_call(name, metadata or {}))
        return self[name]

    def list(self) -> list[CollectionInfo]:
        """List the collections."""
        return self._ask(list_collections_call)


class Collection:
    """The persons of one collection. Methods raise the errors of `jetface_client.errors`."""

    def __init__(self, name: str, ask: Ask, stream: Stream) -> None:
        self.name = name
        self._ask = ask
        self._stream = stream
        self._calls = CollectionCalls(name)

    def info(self) -> CollectionInfo:
        """Tell what it holds."""
        return self._ask(self._calls.info)

    def delete(self) -> CollectionInfo:
        """Delete it with all that is in it."""
        return self._ask(self._calls.delete)

    def add_person(
        self, person_id: str | None = None, *, name: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Person:
        """Add a person; one of that id, name and metadata that is there already is returned."""
        return self._ask(lambda: self._calls.add_person(person_id, name, metadata or {}))

    def person(self, person_id: str) -> Person:
        """Tell of a person."""
        return self._ask(lambda: self._calls.person(person_id))

    def persons(self) -> Iterator[Person]:
        """Yield every person, in the order in which they were added."""
        after: str | None = ""
        while after is not None:
            page = self._ask(bound(self._calls.persons, after))
            yield from page.items
            after = page.next

    def change_person(
        self, person_id: str, *, name: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Person:
        """Change what is given of a person."""
        return self._ask(lambda: self._calls.change_person(person_id, name, metadata))

    def delete_person(self, person_id: str) -> Person:
        """Delete a person and its faces, for good."""
        return self._ask(lambda: self._calls.delete_person(person_id))

    def enrol(
        self,
        person_id: str,
        pictures: Sequence[PictureSource],
        options: EnrolOptions = EnrolOptions(),  # noqa: B008 - frozen
        *,
        name: str | None = None,
        face_ids: Sequence[str] | None = None,
    ) -> list[Enrolled]:
        """Enrol pictures of a person, who is added if new; each is stored or refused by itself."""
        return self._ask(lambda: self._calls.enrol(person_id, pictures, options, name, face_ids))

    def enrol_vectors(
        self,
        person_id: str,
        vectors: ArrayLike,
        options: EnrolOptions = EnrolOptions(),  # noqa: B008 - frozen
        *,
        name: str | None = None,
        face_ids: Sequence[str] | None = None,
    ) -> list[Enrolled]:
        """Enrol (N, L) embeddings of the collection's recognizer."""
        return self._ask(lambda: self._calls.enrol_vectors(person_id, vectors, options, name, face_ids))

    def faces(self, person_id: str) -> Iterator[StoredFace]:
        """Yield the faces of a person, in the order in which they were enrolled."""
        after: str | None = ""
        while after is not None:
            page = self._ask(bound(self._calls.faces, person_id, after))
            yield from page.items
            after = page.next

    def delete_faces(self, face_ids: Sequence[str]) -> list[str]:
        """Delete those faces that are there, for good; return their ids."""
        return self._ask(lambda: self._calls.delete_faces(face_ids))

    def search(
        self,
        picture: PictureSource,
        options: SearchOptions = SearchOptions(),  # noqa: B008 - frozen
    ) -> tuple[FoundFace, ...]:
        """Tell of every face of a picture who it may be.

        Raises:
            PictureError: The service cannot read the picture.
        """
        return self._ask(lambda: self._calls.search(picture, options))

    def search_many(
        self,
        pictures: Sequence[PictureSource],
        options: SearchOptions = SearchOptions(),  # noqa: B008 - frozen
    ) -> list[SearchedPicture]:
        """Search for the faces of several pictures in one request; one that cannot be read fails in its slot."""
        return self._ask(lambda: self._calls.search_many(pictures, options))

    def search_vectors(
        self,
        vectors: ArrayLike,
        options: SearchOptions = SearchOptions(),  # noqa: B008 - frozen
    ) -> list[FoundFace]:
        """Search for (N, L) embeddings of the collection's recognizer."""
        return self._ask(lambda: self._calls.search_vectors(vectors, options))

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write all of it into a new file, a line of JSON each person and face; whole, or no file is there.

        Embeddings and kept crops are among it, so the key has to be one that may write.
        """
        with new_file(path) as write, closing(self._stream(self._calls.export_path)) as pieces:
            for piece in pieces:
                write(piece)

    def export_lines(self) -> Generator[bytes, None, None]:
        """Yield what `export` writes, a line with its end at a time."""
        rest = b""
        with closing(self._stream(self._calls.export_path)) as pieces:
            for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield line + b"\n"

    def import_(self, path: str | os.PathLike[str]) -> Imported:
        """Add what `export` has written; the collection is made if missing, and what is there already stays as it is.

        Sent in parts, each stored whole or not at all; after an error a second call takes up where the first ended.
        """
        return self.import_lines(lines_of(path))

    def import_lines(self, lines: Iterable[bytes]) -> Imported:
        """Add what `export_lines` has yielded; as `import_`."""
        done = Imported()
        parts = parts_of(lines)
        while part := here(next, parts, b""):
            done += self._ask(bound(self._calls.import_part, part))
        return done


@final
class Client:
    """Calls a jetface service. Thread-safe; connections are kept and shared. Close it, or use it in a `with` block.

    Every method raises the errors of `jetface_client.errors`, and `OSError` for a file it cannot read.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        http: httpx.Client | None = None,
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
        self._owned: httpx.Client | None = None
        if http is None:
            http = self._owned = httpx.Client(limits=httpx.Limits(max_keepalive_connections=KEPT_CONNECTIONS))
        self._http = http

    def extract(self, picture: PictureSource, options: ExtractOptions = ExtractOptions()) -> Picture:  # noqa: B008 - frozen
        """Find the faces of a picture, and embed them.

        Raises:
            PictureError: The service cannot read the picture.
        """
        return self._ask(calls.extract_call, picture, options)

    def extract_many(
        self,
        pictures: Sequence[PictureSource],
        options: ExtractOptions = ExtractOptions(),  # noqa: B008 - frozen
    ) -> list[Picture]:
        """Find and embed the faces of several pictures in one request; one that cannot be read fails in its slot."""
        return self._ask(calls.extract_many_call, pictures, options)

    def extract_folder(
        self,
        folder: str | os.PathLike[str],
        options: ExtractOptions = ExtractOptions(),  # noqa: B008 - frozen
        *,
        concurrency: int = 8,
        progress: Progress | None = None,
        skipped: Counter[str] | None = None,
    ) -> Generator[tuple[Path, Picture], None, None]:
        """Yield each picture file of a folder and all below it with its faces, in order of name.

        Args:
            folder: Searched as `find_pictures` does.
            options: What is wanted of each.
            concurrency: Requests in flight, and pictures in memory, at once; fewer than the service's MAX_IN_FLIGHT.
            progress: Called as `progress(num_done, num_all)` after each picture.
            skipped: Counts by reason the other files of the folder, before the first picture is yielded.

        Yields:
            The path and what came of it; a picture or file that cannot be read has its `failure`.
        """
        paths = here(find_pictures, folder, skipped=skipped)
        files = self.extract_files(paths, options, concurrency=concurrency, progress=progress)
        with closing(files):
            yield from files

    def extract_files(
        self,
        paths: Sequence[str | os.PathLike[str]],
        options: ExtractOptions = ExtractOptions(),  # noqa: B008 - frozen
        *,
        concurrency: int = 8,
        progress: Progress | None = None,
    ) -> Generator[tuple[Path, Picture], None, None]:
        """Yield each of `paths` with its faces, in their order; as `extract_folder`."""
        if concurrency < 1:
            raise ValueError("concurrency is at least 1")
        num_done = 0
        with Flights[Picture](concurrency) as flights:
            for path in map(Path, paths):
                if flights.are_full:
                    num_done += 1
                    yield self._landed(flights, num_done, len(paths), progress)
                flights.start(path, self._extract_file, path, options)
            while flights:
                num_done += 1
                yield self._landed(flights, num_done, len(paths), progress)

    def detect(
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
        return self._ask(
            calls.detect_call,
            picture,
            threshold=threshold,
            limit_faces=limit_faces,
            min_face_size=min_face_size,
            rotations=rotations,
        )

    def detect_many(
        self,
        pictures: Sequence[PictureSource],
        *,
        threshold: float | None = None,
        limit_faces: int = 0,
        min_face_size: int = 0,
        rotations: Rotations = "none",
    ) -> list[Picture]:
        """Find the faces of several pictures in one request; one that cannot be read fails in its slot."""
        return self._ask(
            calls.detect_many_call,
            pictures,
            threshold=threshold,
            limit_faces=limit_faces,
            min_face_size=min_face_size,
            rotations=rotations,
        )

    def recognize(
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
        return self._ask(calls.recognize_call, picture, landmarks=landmarks, boxes=boxes, rotations=rotations)

    def recognize_many(
        self,
        pictures: Sequence[PictureSource],
        *,
        landmarks: Sequence[ArrayLike] | None = None,
        boxes: Sequence[ArrayLike] | None = None,
        rotations: Rotations = "none",
    ) -> list[Picture]:
        """As `recognize`, for several pictures in one request: `landmarks` or `boxes` hold one array a picture."""
        return self._ask(calls.recognize_many_call, pictures, landmarks=landmarks, boxes=boxes, rotations=rotations)

    def plates(
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
        return self._ask(calls.plates_call, picture, threshold=threshold, limit=limit, min_width=min_width)

    def plates_many(
        self, pictures: Sequence[PictureSource], *, threshold: float | None = None, limit: int = 0, min_width: int = 0
    ) -> list[PlatesPicture]:
        """Find and read the plates of several pictures in one request; one that cannot be read fails in its slot."""
        return self._ask(calls.plates_many_call, pictures, threshold=threshold, limit=limit, min_width=min_width)

    def compare(
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
        return self._ask(
            calls.compare_call,
            first,
            second,
            threshold=threshold,
            detection_threshold=detection_threshold,
            rotations=rotations,
        )

    def compare_many(
        self,
        pictures: Sequence[PictureSource],
        others: Sequence[PictureSource],
        *,
        threshold: float | None = None,
        detection_threshold: float | None = None,
        rotations: Rotations = "none",
    ) -> ComparisonMatrix:
        """Compare the largest face of each of `pictures` with that of each of `others`."""
        return self._ask(
            calls.compare_many_call,
            pictures,
            others,
            threshold=threshold,
            detection_threshold=detection_threshold,
            rotations=rotations,
        )

    @property
    def collections(self) -> Collections:
        """The collections of the service's gallery."""
        return Collections(self._ask, self._stream)

    def info(self) -> Info:
        """Tell what runs there."""
        return self._ask(calls.info_call)

    def models(self) -> list[Model]:
        """List the service's registry."""
        return self._ask(calls.models_call)

    def ready(self) -> Readiness:
        """Tell whether requests can be served now; asked once, never repeated."""
        return self._ask(calls.ready_call)

    def close(self) -> None:
        """Close the connections, unless `http` was given."""
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(
        self, build: Callable[Parameters, Call[Result]], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        steps = exchange(here(build, *args, **kwargs), self._config, now=time.monotonic)
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                result: Result = end.value
                return result
            outcome = self._take(step)

    def _take(self, step: Step) -> Outcome:
        if isinstance(step, Wait):
            wait(step.delay_s)
            return None
        try:
            answer = self._http.request(
                step.method, step.url, headers=step.headers, content=step.content, timeout=step.timeout
            )
        except httpx.RequestError as cause:
            return cause
        return Reply(answer.status_code, answer.headers, answer.content)

    def _stream(self, path: str) -> Generator[bytes, None, None]:
        sent = stream(path, self._config)
        try:
            with self._http.stream(sent.method, sent.url, headers=sent.headers, timeout=sent.timeout) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise stream_error(Reply(answer.status_code, answer.headers, answer.read()), sent)
                yield from answer.iter_bytes()
        except httpx.RequestError as cause:
            raise stream_error(cause, sent) from cause

    def _landed(
        self, flights: Flights[Picture], num_done: int, num_all: int, progress: Progress | None
    ) -> tuple[Path, Picture]:
        """Return the picture that was asked for first of those in flight."""
        landed = flights.land()
        if progress is not None:
            progress(num_done, num_all)
        return landed

    def _extract_file(self, path: Path, options: ExtractOptions) -> Picture:
        try:
            return (self.extract_many([path], options))[0]
        except OSError as cause:
            return unreadable(cause)
