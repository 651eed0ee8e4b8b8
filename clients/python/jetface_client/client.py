"""The client for threads."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar, final

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
)
from jetface_client.gallery import Collections
from jetface_client.options import ExtractOptions, Rotations
from jetface_client.results import Comparison, ComparisonMatrix, Info, Model, Picture, Readiness
from jetface_client.retries import RetryPolicy
from jetface_client.sources import PictureSource, Progress, find_pictures, unreadable

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


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
    ) -> Iterator[tuple[Path, Picture]]:
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
        yield from self.extract_files(
            find_pictures(folder, skipped=skipped), options, concurrency=concurrency, progress=progress
        )

    def extract_files(
        self,
        paths: Sequence[Path],
        options: ExtractOptions = ExtractOptions(),  # noqa: B008 - frozen
        *,
        concurrency: int = 8,
        progress: Progress | None = None,
    ) -> Iterator[tuple[Path, Picture]]:
        """Yield each of `paths` with its faces, in their order; as `extract_folder`."""
        if concurrency < 1:
            raise ValueError("concurrency is at least 1")
        in_work: deque[tuple[Path, Future[Picture]]] = deque()
        num_done = 0
        waiting = iter(paths)
        with ThreadPoolExecutor(concurrency, thread_name_prefix="jetface-client") as pool:
            try:
                while True:
                    while len(in_work) < concurrency and (path := next(waiting, None)) is not None:
                        in_work.append((path, pool.submit(self._extract_file, path, options)))
                    if not in_work:
                        return
                    path, future = in_work.popleft()
                    picture = future.result()
                    num_done += 1
                    if progress is not None:
                        progress(num_done, len(paths))
                    yield path, picture
            finally:
                for _, future in in_work:
                    future.cancel()

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
        return Collections(self._ask)

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
        steps = exchange(build(*args, **kwargs), self._config, now=time.monotonic)
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
            time.sleep(step.delay_s)
            return None
        try:
            answer = self._http.request(
                step.method, step.url, headers=step.headers, content=step.content, timeout=step.timeout
            )
        except httpx.RequestError as cause:
            return cause
        return Reply(answer.status_code, answer.headers, answer.content)

    def _extract_file(self, path: Path, options: ExtractOptions) -> Picture:
        try:
            return self.extract_many([path], options)[0]
        except OSError as cause:
            return unreadable(cause)
