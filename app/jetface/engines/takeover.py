"""Engines in service: one that is kept is opened at once, another is built while something else answers.

States of an engine: absent -> building -> checking -> serving, or rejected with a reason until the next start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import structlog

from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.engines.child import EngineChild
from jetface.engines.job import EngineJob, EngineJobs, Step
from jetface.engines.plan import EngineStatus, KeptPlan, PlanRecord
from jetface.errors import (
    EngineLoadError,
    InferenceError,
    ModelBuildingError,
    ModelError,
    ServiceError,
    ShuttingDownError,
)
from jetface.heads.canvases import item_key
from jetface.heads.families import FAMILIES
from jetface.heads.family import probe_item
from jetface.heads.lanes import Head
from jetface.metrics import Metrics
from jetface.models.items import ItemMemory
from jetface.models.loaded import LoadedModel, LoadProgress
from jetface.models.loading import ModelLoader, WeightsSupply, started_in_time, watch_model
from jetface.models.store import ModelStore
from jetface.registry import ModelSpec
from jetface.runtimes.backend import Backend, warm
from jetface.runtimes.engine_kit import EngineKit
from jetface.threads import SlowWork

_log = structlog.get_logger(__name__)

_RETRY_AFTER_S = 30.0
"""What a refused caller is told: how long a build takes nobody can say."""

_LOG_EVERY_S = 10.0
"""Phases that follow each other faster than that are not all logged."""


class EngineBoard:
    """The states of all engines of a service. Belongs to the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._statuses: dict[str, EngineStatus] = {}
        self._begun_at: dict[str, float] = {}
        self._told_at = 0.0

    def status(self, name: str) -> EngineStatus:
        """Return where a model's engine is."""
        status = self._statuses.get(name, EngineStatus())
        if status.state not in {"building", "checking"}:
            return status
        return replace(status, elapsed_s=time.monotonic() - self._begun_at[name])

    def enter(self, name: str, status: EngineStatus) -> None:
        """Note a new state."""
        self._statuses[name] = status
        self._metrics.set_engine(name, status.state)

    def begin(self, name: str) -> None:
        """Note that a build begins."""
        self._begun_at[name] = time.monotonic()
        self.enter(name, EngineStatus(state="building"))

    def note_step(self, name: str, step: Step) -> None:
        """Note what a build is doing; tell the log now and then. A step that comes after the end is dropped."""
        if self.status(name).state not in {"building", "checking"}:
            return
        self.enter(name, EngineStatus(state=step.state, phase=step.phase))
        if time.monotonic() >= self._told_at + _LOG_EVERY_S:
            self._told_at = time.monotonic()
            elapsed_s = self._told_at - self._begun_at[name]
            _log.info(f"{step.state} an engine for {elapsed_s:.0f} s", model=name, phase=step.phase)

    def note_built(self, name: str, record: PlanRecord) -> None:
        """Note that an engine was built and passed its check."""
        took_s = time.monotonic() - self._begun_at[name]
        self._metrics.engine_build_seconds.labels(name).set(took_s)
        _log.info("engine built", model=name, took_s=round(took_s, 1), check=record.verdict)
        for note in record.notes:
            _log.warning("note on the engine", model=name, note=note)

    def reject(self, name: str, reason: str, *, is_served: bool, cause: BaseException | None = None) -> None:
        """Note that there will be no engine until the next start.

        Args:
            name: The model.
            reason: Why, one sentence.
            is_served: Whether another backend answers instead.
            cause: What the log is to tell in full, where it is nothing foreseen.
        """
        self.enter(name, EngineStatus(state="rejected", reason=reason))
        _log.error(
            "engine is rejected: it is tried again at the next start, or by `jetface engine build`",
            model=name, reason=reason, is_served=is_served, exc_info=None if isinstance(cause, ServiceError) else cause,
        )  # fmt: skip

    def building(self, name: str) -> ModelBuildingError:
        """Return the error of a caller who has to wait for an engine."""
        elapsed_s = self.status(name).elapsed_s or 0.0
        return ModelBuildingError(
            f"The engine of model {name} is being built, for {elapsed_s:.0f} s so far.", retry_after_s=_RETRY_AFTER_S
        )


class EngineLane:
    """Runs one model's engine. All calls come from the lane's thread."""

    def __init__(self, job: EngineJob, kit: EngineKit, plan: bytes, items: ItemMemory) -> None:
        """Create a lane.

        Args:
            job: By which the plan was made.
            kit: Opens the plan.
            plan: Let go of once it is open.
            items: Where the model's items are made.
        """
        self._job = job
        self._items = items
        self._kit = kit
        self._plan: bytes | None = plan
        self._backend: Backend | None = None
        self._head: Head[Any, Any] | None = None

    @property
    def probe_item(self) -> Any:
        """An item the engine can run."""
        return probe_item(self._job.spec, self._canvas_hw)

    def lane(self) -> Lane[Any, Any]:
        """Return what a batcher takes."""
        return Lane(run=self._run, close=self._close, start=self._start)

    async def serve(
        self, backend: str, metrics: Metrics, *, max_waiting: int, timeout_s: float
    ) -> LoadedModel[Any, Any]:
        """Open the engine and return a model that this lane alone serves.

        Args:
            backend: What an operator sees.
            metrics: Where it is shown what the model does.
            max_waiting: Most items in its queue.
            timeout_s: Longest time it may take to open and warm.
        """
        job, name = self._job, self._job.spec.name
        batcher: Batcher[Any, Any] = Batcher(
            name,
            [self.lane()],
            max_batch=job.recipe.max_batch_size,
            max_waiting=max_waiting,
            key=item_key,
            metrics=metrics,
            probe_items=[self.probe_item],
        )
        try:
            await started_in_time(batcher, timeout_s)
        except BaseException:
            self._items.close()
            raise
        watch_model(metrics, name, batcher, self._items)
        return LoadedModel(
            spec=job.spec, backend=backend, batcher=batcher, input_hw=job.input_hw, sha256=job.source_sha256,
            is_batch_free=job.is_batch_free, items=self._items,
        )  # fmt: skip

    @property
    def _canvas_hw(self) -> tuple[int, int] | None:
        return next(iter(self._job.canvases_hw), None)

    def _start(self) -> None:
        spec, shapes = self._job.spec, self._job.recipe.item_shapes
        self._backend = self._kit.open(self._plan or b"", self._job.recipe)
        # The device has its own copy now.
        self._plan = None
        warm(self._backend, shapes, np.uint8)
        if spec.is_detector:
            self._items.pin(spec.name, self._backend, shapes)
        self._head = FAMILIES[spec.family].probe(spec, self._backend, self._canvas_hw, takes_pixels=True).head

    def _run(self, items: Sequence[Any]) -> Sequence[Any]:
        if self._head is None or self._backend is None:
            raise InferenceError("The engine is not open.")
        return self._head.run(self._backend, items)

    def _close(self) -> None:
        if self._backend is not None:
            self._backend.close()


class EngineLoader:
    """Loads models on engines where there are any, else as `plain` does. Belongs to one event loop.

    One engine is built at a time. A build that fails is not tried again by this process.
    """

    def __init__(
        self,
        jobs: EngineJobs,
        plain: ModelLoader | None,
        metrics: Metrics,
        *,
        max_waiting: int,
        serves_meanwhile: bool,
        most_canvases: int = 64,
        load_timeout_s: float = 900.0,
        may_build: Callable[[EngineJob], None] = lambda _: None,
    ) -> None:
        """Create a loader.

        Args:
            jobs: What engines are made of.
            plain: What answers without engines; None where nothing can.
            metrics: Where states are shown.
            max_waiting: As in `LoadOptions`.
            serves_meanwhile: Whether `plain` answers while an engine is built.
            most_canvases: As in `LoadOptions`.
            load_timeout_s: As in `LoadOptions`; the look-up of an engine, its cast graph included, and its opening each
                have as long.
            may_build: Asked before each build; raises ServiceError when this is no time for one.
        """
        self._jobs = jobs
        self._plain = plain
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._serves_meanwhile = serves_meanwhile and plain is not None
        self._most_canvases = most_canvases
        self._load_timeout_s = load_timeout_s
        self._may_build = may_build
        self._store: ModelStore | None = None
        self._board = EngineBoard(metrics)
        self._unkept: dict[str, KeptPlan] = {}
        self._builds: dict[str, asyncio.Task[None]] = {}
        self._built: set[str] = set()
        self._children: dict[str, EngineChild] = {}
        self._is_closed = False
        self._supply = WeightsSupply(jobs.weights)
        self._files = SlowWork("engine look-up", most=1, timeout_s=load_timeout_s)
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="engine-builder")

    def follow(self, store: ModelStore) -> None:
        """Tell this store of takeovers, and let it load what waited for an engine."""
        self._store = store

    def status(self, name: str) -> EngineStatus:
        """Return where a model's engine is."""
        return self._board.status(name)

    async def load(self, spec: ModelSpec, progress: LoadProgress | None = None) -> LoadedModel[Any, Any]:
        """Load a model on its engine if that is there, else on what answers meanwhile, and see to its engine.

        Args:
            spec: Its registry entry.
            progress: Where it is told how far the load is.

        Raises:
            ModelBuildingError: The engine is being built and nothing answers meanwhile; `retry_after_s` says how long.
            ModelError: The weights cannot be had; or there is no engine, and nothing else that could answer.
            BackendError: The backend did not open the graph.
        """
        progress = progress or LoadProgress()
        if spec.name in self._builds:
            raise self._board.building(spec.name)
        if self.status(spec.name).state == "rejected":
            return await self._load_plain(spec, progress)
        if self._serves_meanwhile and not self._jobs.plans.has_any(spec.name):
            # There is nothing to find: whoever waits need not wait until the graph is cast, too.
            return await self._serve_meanwhile(spec, None, progress)
        try:
            job, kept = await self._look_up(spec, progress)
        except ServiceError as error:
            if self._plain is None:
                raise error if isinstance(error, ModelError) else ModelError(error.message) from error
            model = await self._plain.load(spec, progress)
            self._reject(spec.name, f"There is no graph for an engine: {error.message}")
            return model
        if kept := self._unkept.pop(spec.name, kept):
            progress.enter("opening")
            try:
                return await self._open(job, kept)
            except Exception as error:  # noqa: BLE001 - whatever a driver raises, something else can answer
                if spec.name in self._built:
                    self._reject(spec.name, self._unopened(job, error))
                    return await self._load_plain(spec, progress)
                _log.warning("engine does not open and is built anew", model=spec.name, exc_info=error)
                self._unopened(job, error)
        if self._serves_meanwhile:
            return await self._serve_meanwhile(spec, job, progress)
        self._begin(spec, job, None)
        raise self._board.building(spec.name)

    def is_building(self, name: str) -> bool:
        """Tell whether an engine is being built for a model."""
        return name in self._builds

    async def release(self, name: str) -> None:
        """End the build for a model and forget what came of it: the next load looks at its file anew."""
        build = self._builds.get(name)
        if build is not None:
            if name in self._children:
                self._children[name].stop("the model is loaded anew")
            build.cancel()
            await asyncio.gather(build, return_exceptions=True)
        self._unkept.pop(name, None)
        self._built.discard(name)
        self._board.enter(name, EngineStatus())

    async def close(self) -> None:
        """End builds under way and take no more."""
        self._is_closed = True
        builds = dict(self._builds)
        for name, build in builds.items():
            if name in self._children:
                self._children[name].stop("the service stops")
            else:
                build.cancel()  # it may be at a download or a cast, which end in their own time
        await asyncio.gather(*builds.values(), return_exceptions=True)
        self._supply.close()
        self._files.close()
        self._builder.shutdown(wait=False, cancel_futures=True)
        self._jobs.close()

    async def _look_up(self, spec: ModelSpec, progress: LoadProgress) -> tuple[EngineJob, KeptPlan | None]:
        weights = await self._supply.locate(spec, progress)

        def find() -> tuple[EngineJob, KeptPlan | None]:
            job = self._jobs.job(spec, weights)
            return job, self._jobs.plans.find(job.recipe)

        progress.enter("waiting")
        return await self._files.call(find, model=spec.name, begun=partial(progress.enter, "opening"))

    async def _serve_meanwhile(
        self, spec: ModelSpec, job: EngineJob | None, progress: LoadProgress
    ) -> LoadedModel[Any, Any]:
        model = await self._load_plain(spec, progress)
        self._begin(spec, job, model)
        return model

    async def _load_plain(self, spec: ModelSpec, progress: LoadProgress) -> LoadedModel[Any, Any]:
        if self._plain is None:
            raise ModelError(f"There is no engine for the model. {self.status(spec.name).reason or ''}".rstrip())
        return await self._plain.load(spec, progress)

    async def _open(self, job: EngineJob, kept: KeptPlan) -> LoadedModel[Any, Any]:
        engine = EngineLane(job, self._jobs.source.kit, kept.plan, ItemMemory(self._most_canvases))
        model = await engine.serve(
            self._backend(job), self._metrics, max_waiting=self._max_waiting, timeout_s=self._load_timeout_s
        )
        self._board.enter(job.spec.name, EngineStatus(state="serving"))
        return model

    def _begin(self, spec: ModelSpec, job: EngineJob | None, model: LoadedModel[Any, Any] | None) -> None:
        name = spec.name
        if self._is_closed:
            return
        self._board.begin(name)
        task = asyncio.create_task(self._build(spec, job, model), name=f"engine {name}")
        self._builds[name] = task
        task.add_done_callback(lambda _: self._builds.pop(name, None))

    async def _build(self, spec: ModelSpec, job: EngineJob | None, model: LoadedModel[Any, Any] | None) -> None:
        name = spec.name
        try:
            job = job or (await self._look_up(spec, LoadProgress()))[0]
            self._may_build(job)
            kept = await self._run_child(job)
            if model is None:
                self._unkept[name] = kept
            else:
                await self._take_over(job, kept, model)
        except Exception as error:  # noqa: BLE001 - as above; and a state must not stay what it is no more
            if not self._is_closed:
                self._reject(name, _words(error), cause=error)
        if model is None and self._store is not None and not self._is_closed:
            # The done callback comes too late for the load that follows.
            self._builds.pop(name, None)
            try:
                await self._store.get(name)
            except ServiceError:
                return  # the store has logged it

    async def _run_child(self, job: EngineJob) -> KeptPlan:
        name = job.spec.name
        loop = asyncio.get_running_loop()
        child = EngineChild(job, lambda step: loop.call_soon_threadsafe(self._board.note_step, name, step))
        self._children[name] = child
        self._board.begin(name)
        _log.info("engine is built", model=name, precision=job.recipe.precision, kit=self._jobs.source.kit.name)
        try:
            kept = await loop.run_in_executor(self._builder, child.run)
            self._built.add(name)
        finally:
            del self._children[name]
        self._board.note_built(name, kept.record)
        return kept

    async def _take_over(self, job: EngineJob, kept: KeptPlan, model: LoadedModel[Any, Any]) -> None:
        name = job.spec.name
        engine = EngineLane(job, self._jobs.source.kit, kept.plan, model.items)
        try:
            await model.batcher.replace_lanes(
                [engine.lane()], max_batch=job.recipe.max_batch_size, probe_items=[engine.probe_item]
            )
        except ShuttingDownError:
            raise
        except Exception as error:
            raise ModelError(self._unopened(job, error)) from error
        if self._store is not None:
            self._store.note_backend(name, self._backend(job))
        self._board.enter(name, EngineStatus(state="serving"))
        _log.info("engine has taken over", model=name, backend=self._backend(job))

    def _backend(self, job: EngineJob) -> str:
        """Return what an operator sees: the toolkit and the precision."""
        return f"{self._jobs.source.kit.name}-{job.recipe.precision}"

    def _unopened(self, job: EngineJob, error: Exception) -> str:
        """Say that an engine did not open, and let go of a plan that is to blame for it."""
        if isinstance(error, EngineLoadError):
            self._jobs.plans.discard(job.recipe)
        return f"The engine does not open in the service: {_words(error)}"

    def _reject(self, name: str, reason: str, cause: BaseException | None = None) -> None:
        self._board.reject(name, reason, is_served=self._plain is not None, cause=cause)


def _words(error: Exception) -> str:
    return error.message if isinstance(error, ServiceError) else "Something went wrong; the log says what."
