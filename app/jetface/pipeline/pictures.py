"""The pictures of one request: a few in work at once, each with its own clock, each failing alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from typing_extensions import ParamSpec

from jetface.domain import STAGES, Face, PictureResult, Plate, StageTimes
from jetface.errors import NotFiniteError, RequestError, ServiceError
from jetface.imaging.sources import PictureSource
from jetface.metrics import Metrics
from jetface.models.store import ModelStore, NotLoaded
from jetface.threads import Threads

PICTURES_AT_ONCE = 4
"""Pictures of one request in work at the same time: enough to keep decoder, detector and recognizer busy together,
few enough that a request of a hundred pictures neither holds their pixels nor crowds out its neighbours."""


@dataclass(slots=True, kw_only=True, eq=False)
class PictureJob:
    """The work on one picture of a request. Belongs to one task."""

    index: int
    """Its place in the request."""
    source: PictureSource
    group: Hashable
    """The request; requests take turns in the queues."""
    deadline: float
    """`loop.time()` after which the answer is of no use."""
    started: float = field(default_factory=time.perf_counter)
    begun: float = field(default_factory=time.perf_counter)
    """When the work began, the last time."""
    _spans: list[tuple[str, float, float]] = field(default_factory=list)
    """As `StageTimes.spans`."""

    def add(self, **seconds: float) -> None:
        """Count what has just ended, seconds by stage: the last stage first, and before it what came before it."""
        ended = time.perf_counter()
        for stage, took_s in seconds.items():
            self._spans.append((stage, ended - took_s, ended))
            ended -= took_s

    def begin_anew(self, *, load: float) -> None:
        """Forget the stages so far but for the loads, and count the seconds of one more of these."""
        self._spans = [span for span in self._spans if span[0] == "load"]
        self.add(load=load)
        self.begun = time.perf_counter()

    def result(
        self,
        *,
        faces: Sequence[Face] = (),
        plates: Sequence[Plate] | None = None,
        error: ServiceError | None = None,
        image_hw: tuple[int, int] | None = None,
        detection_scale: float = 1.0,
        rotation: int | None = None,
    ) -> PictureResult:
        """Return what came of the picture, timed until now."""
        seconds: dict[str, float] = {}
        for stage, began, ended in self._spans:
            name = f"{stage}_s"
            seconds[name] = seconds.get(name, 0.0) + ended - began
        return PictureResult(
            image_index=self.index,
            faces=tuple(faces),
            plates=None if plates is None else tuple(plates),
            error=error,
            image_hw=image_hw,
            detection_scale=detection_scale,
            rotation=rotation,
            times=StageTimes(**seconds, spans=tuple(self._spans)),
            took_s=time.perf_counter() - self.started,
        )

    @property
    def worked_s(self) -> float:
        """Seconds since the work began, the last time."""
        return time.perf_counter() - self.begun

    def recalled(self, kept: PictureResult) -> PictureResult:
        """Return what came of the same picture before as this one's result, timed until now."""
        return self.result(
            faces=[replace(face, image_index=self.index) for face in kept.faces],
            plates=kept.plates,
            image_hw=kept.image_hw,
            detection_scale=kept.detection_scale,
            rotation=kept.rotation,
        )


Work: TypeAlias = Callable[[PictureJob], Coroutine[Any, Any, PictureResult]]
"""What is done with one picture."""

Recall: TypeAlias = Callable[[PictureJob, Work], Awaitable[PictureResult]]
"""Answers a picture from memory, or lets it be worked on."""


async def each_picture(
    sources: Sequence[PictureSource], work: Work, *, deadline: float, metrics: Metrics
) -> list[PictureResult]:
    """Run `work` on every picture, `PICTURES_AT_ONCE` at a time.

    Args:
        sources: The pictures of one request.
        work: Raises RequestError where the picture is at fault, NotFiniteError where a model has no answer to it; any
            other error ends the other pictures' work too.
        deadline: `loop.time()` after which the answer is of no use.
        metrics: Where pictures, faces, stages and failures are counted.

    Returns:
        One result a picture, in order; `error` is set where `work` raised one of the two.
    """
    group = object()

    async def one(index: int, source: PictureSource) -> PictureResult:
        job = PictureJob(index=index, source=source, group=group, deadline=deadline)
        try:
            result = await work(job)
        except (RequestError, NotFiniteError) as error:
            metrics.refusals.labels(error.code).inc()
            result = job.result(error=error)
        _observe(result, metrics)
        return result

    if len(sources) == 1:  # as most requests have: no task has to wait for another
        return [await one(0, sources[0])]
    places = asyncio.Semaphore(PICTURES_AT_ONCE)

    async def one_in_turn(index: int, source: PictureSource) -> PictureResult:
        async with places:
            return await one(index, source)

    tasks = [asyncio.create_task(one_in_turn(index, source)) for index, source in enumerate(sources)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def each_picture_when_loaded(
    sources: Sequence[PictureSource],
    work: Work,
    models: Sequence[str],
    *,
    store: ModelStore,
    deadline: float,
    metrics: Metrics,
    recall: Recall | None = None,
) -> list[PictureResult]:
    """Run `work` on every picture as `each_picture` does. One that needs a model which is not loaded is begun anew.

    Until the model is there nothing is held of a picture but the request's body: pixels and places are for those whose
    models are there. Where one of `models`, which it may need, is being loaded already, it is not begun before. With
    `recall` it is not begun at all where the answer is known.
    """

    async def wait_for(name: str, job: PictureJob, held: ExitStack) -> None:
        started = time.perf_counter()
        model = await store.get(name, deadline=job.deadline)
        # It does not go again while the next one loads.
        held.enter_context(model.users)
        job.begin_anew(load=time.perf_counter() - started)

    async def work_when_loaded(job: PictureJob) -> PictureResult:
        with ExitStack() as held:
            for name in filter(store.is_loading, models):
                await wait_for(name, job, held)
            while True:
                try:
                    return await (work(job) if recall is None else recall(job, work))
                except NotLoaded as missing:  # noqa: PERF203 - once a model
                    await wait_for(missing.name, job, held)

    return await each_picture(sources, work_when_loaded, deadline=deadline, metrics=metrics)


def _observe(result: PictureResult, metrics: Metrics) -> None:
    metrics.pictures.labels("failed" if result.error else "ok").inc()
    if result.plates is not None:
        metrics.plates.observe(len(result.plates))
        metrics.unread_plates.inc(sum([not plate.reading.text for plate in result.plates]))
    elif result.error is None:
        metrics.faces.observe(len(result.faces))
        guessed = [face for face in result.faces if face.landmarks_from == "box" and face.embedding is not None]
        metrics.guessed_faces.inc(len(guessed))
    for stage in STAGES:
        seconds = getattr(result.times, f"{stage}_s")
        if seconds > 0:
            metrics.stage_seconds.labels(stage).observe(seconds)


P = ParamSpec("P")
T = TypeVar("T")


class WorkPool:
    """A pool of `num_threads` threads, shared by all stages that are neither detector nor recognizer.

    What waits for it is bounded by the places at the door times the pictures a request works on at once.
    """

    def __init__(self, num_threads: int) -> None:
        self.threads = Threads(num_threads, "work")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on a thread of the pool. Cancelling the caller does not stop a call that has begun.

        Raises:
            ShuttingDownError: The pool is closed.
        """
        return await self.threads.call(partial(function, *args, **kwargs))

    def close(self) -> None:
        """Refuse what has not begun and let the threads end."""
        self.threads.close()
