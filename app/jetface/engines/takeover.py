"""Engines in service: one that is kept is opened at once, another is built while something else answers.

States of an engine: absent -> building -> checking -> serving, or rejected with a reason until the next start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import structlog

from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.engines.child import EngineChild
from jetface.engines.plan import Announcer, EngineStatus, KeptPlan, PlanRecord, remaining_s
from jetface.engines.recipe import EngineJob, EngineRecipe, EngineRecipes, Step
from jetface.errors import (
    EngineLoadError,
    InferenceError,
    ModelBuildingError,
    ModelError,
    ServiceError,
    ShuttingDownError,
)
from jetface.heads.families import FAMILIES, probe_item
from jetface.heads.lanes import Head
from jetface.metrics import Metrics
from jetface.models.items import ItemMemory
from jetface.models.loaded import LoadedModel, LoadProgress
from jetface.models.loading import WeightsSupply, item_key, started_in_time, watch_model
from jetface.registry import ModelSpec
from jetface.runtimes.backend import Backend, warm
from jetface.runtimes.engine_kit import EngineKit
from jetface.threads import SlowWork

_log = structlog.get_logger(__name__)

_UNKNOWN_ETA_S = 30.0
"""What a refused caller is told while nothing can be said of a build yet."""


class EngineBoard:
    """The states of all engines of a service. Belongs to the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._statuses: dict[str, EngineStatus] = {}

    def status(self, name: str) -> EngineStatus:
        """Return where a model's engine is."""
        return self._statuses.get(name, EngineStatus())

    def enter(self, name: str, status: EngineStatus) -> None:
        """Note a new state."""
        self._statuses[name] = status
        self._metrics.set_engine(name, status.state, status.progress)

    def note_step(self, name: str, step: Step, announcer: Announcer, elapsed_s: float) -> None:
        """Note how far a build is; tell the log now and then. A step that comes after the end is dropped."""
        if self.status(name).state not in {"building", "checking"}:
            return
        waits_for = step.phase if step.state == "building" and not step.fraction else None
        eta_s = remaining_s(step.fraction, elapsed_s)
        self.enter(name, EngineStatus(state=step.state, progress=step.fraction, eta_s=eta_s, reason=waits_for))
        if announcer.is_due(step.fraction, elapsed_s):
            _log.info(f"{step.state} {100 * step.fraction:.0f} %, {elapsed_s:.0f} s", model=name, phase=step.phase)

    def note_built(self, name: str, record: PlanRecord, took_s: float) -> None:
        """Note that an engine was built and passed its check."""
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
        status = self.status(name)
        return ModelBuildingError(
            f"The engine of model {name} is being built, {100 * (status.progress or 0):.0f} % done.",
            retry_after_s=status.eta_s or _UNKNOWN_ETA_S,
        )


class EngineLane:
    """Runs one model's engine. All calls come from the lane's thread."""

    def __init__(self, recipe: EngineRecipe, kit: EngineKit, plan: bytes, items: ItemMemory) -> None:
        """Create a lane.

        Args:
            recipe: The model's.
            kit: Opens the plan.
            plan: Let go of once it is open.
            items: Where the model's items are made.
        """
        self._recipe = recipe
        self._items = items
        self._kit = kit
        self._plan: bytes | None = plan
        self._backend: Backend | None = None
        self._head: Head[Any, Any] | None = None

    @property
    def probe_item(self) -> Any:
        """An item the engine can run."""
        return probe_item(self._recipe.spec, self._canvas_hw)

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
        recipe, name = self._recipe, self._recipe.spec.name
        batcher: Batcher[Any, Any] = Batcher(
            name,
            [self.lane()],
            max_batch=recipe.max_batch_size,
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
            spec=recipe.spec, backend=backend, batcher=batcher, input_hw=recipe.graph.input_hw,
            sha256=recipe.graph.source_sha256, is_batch_free=recipe.graph.is_batch_free, items=self._items,
        )  # fmt: skip

    @property
    def _canvas_hw(self) -> tuple[int, int] | None:
        return self._recipe.canvases_hw[0] if self._recipe.canvases_hw else None

    def _start(self) -> None:
        recipe, plan = self._recipe, self._plan or b""
        self._backend = self._kit.open(plan, max_batch_size=recipe.max_batch_size, dla_core=recipe.request.dla_core)
        # The device has its own copy now.
        self._plan = None
        takes_pixels = recipe.graph.takes_pixels
        warm(self._backend, recipe.item_shapes, np.uint8 if takes_pixels else np.float32)
        if recipe.spec.task == "detection" and takes_pixels:
            self._items.pin(recipe.spec.name, self._backend, recipe.item_shapes)
        probe = FAMILIES[recipe.spec.family]
        self._head = probe(recipe.spec, self._backend, self._canvas_hw, takes_pixels=takes_pixels).head

    def _run(self, items: Sequence[Any]) -> Sequence[Any]:
        if self._head is None or self._backend is None:
            raise InferenceError("The engine is not open.")
        return self._head.run(self._backend, items)

    def _close(self) -> None:
        if self._backend is not None:
            self._backend.close()


class PlainLoader(Protocol):
    """Loads models on anything but engines."""

    async def load(self, spec: ModelSpec, progress: LoadProgress) -> LoadedModel[Any, Any]:
        """Load one model, and say how far that is."""
        ...


class Store(Protocol):
    """What holds the models."""

    async def get(self, name: str) -> LoadedModel[Any, Any]:
        """Return a model, loading it first if need be."""
        ...

    def note_backend(self, name: str, backend: str) -> None:
        """Note what a model that serves runs on from now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeoverOptions:
    """How engines come into service."""

    max_waiting: int
    """As in `LoadOptions`."""
    serves_meanwhile: bool
    """Whether another backend answers while an engine is built."""
    most_canvases: int = 64
    """As in `LoadOptions`."""
    load_timeout_s: float = 900.0
    """As in `LoadOptions`; the look-up of an engine, its cast graph included, and its opening each have as long."""
    may_build: Callable[[EngineRecipe], None] = lambda recipe: None  # noqa: ARG005 - asked before each build
    """Raises ServiceError when this is no time to build."""
    child: Callable[[EngineJob, Callable[[Step], None]], EngineChild] = EngineChild


class EngineLoader:
    """Loads models on engines where there are any, else as `plain` does. Belongs to one event loop.

    One engine is built at a time. A build that fails is not tried again by this process.
    """

    def __init__(
        self, recipes: EngineRecipes, plain: PlainLoader | None, options: TakeoverOptions, metrics: Metrics
    ) -> None:
        """Create a loader.

        Args:
            recipes: What engines are made of.
            plain: What answers without engines; None where nothing can.
            options: How they come into service.
            metrics: Where states are shown.
        """
        self._recipes = recipes
        self._plain = plain
        self._options = options
        self._metrics = metrics
        self._store: Store | None = None
        self._board = EngineBoard(metrics)
        self._unkept: dict[str, KeptPlan] = {}
        self._builds: dict[str, asyncio.Task[None]] = {}
        self._built: set[str] = set()
        self._children: dict[str, EngineChild] = {}
        self._is_closed = False
        self._supply = WeightsSupply(recipes.weights)
        self._files = SlowWork("engine look-up", most=1, timeout_s=options.load_timeout_s)
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="engine-builder")

    def follow(self, store: Store) -> None:
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
        if self._plain is not None and self._options.serves_meanwhile and not self._recipes.plans.has_any(spec.name):
            # There is nothing to find: whoever waits need not wait until the graph is cast, too.
            return await self._serve_meanwhile(self._plain, spec, None, progress)
        try:
            recipe, kept = await self._look_up(spec, progress)
        except ServiceError as error:
            if self._plain is None:
                raise error if isinstance(error, ModelError) else ModelError(error.message) from error
            model = await self._plain.load(spec, progress)
            self._reject(spec.name, f"There is no graph for an engine: {error.message}")
            return model
        if kept := self._unkept.pop(spec.name, kept):
            progress.enter("opening")
            try:
                return await self._open(recipe, kept)
            except Exception as error:  # noqa: BLE001 - whatever a driver raises, something else can answer
                if spec.name in self._built:
                    self._reject(spec.name, self._unopened(recipe, error))
                    return await self._load_plain(spec, progress)
                _log.warning("engine does not open and is built anew", model=spec.name, exc_info=error)
                self._unopened(recipe, error)
        if self._plain is not None and self._options.serves_meanwhile:
            return await self._serve_meanwhile(self._plain, spec, recipe, progress)
        self._begin(spec, recipe, None)
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
        self._recipes.close()

    async def _look_up(self, spec: ModelSpec, progress: LoadProgress) -> tuple[EngineRecipe, KeptPlan | None]:
        weights = await self._supply.locate(spec, progress)

        def find() -> tuple[EngineRecipe, KeptPlan | None]:
            recipe = self._recipes.recipe(spec, weights)
            return recipe, self._recipes.plans.find(recipe.key)

        progress.enter("waiting")
        return await self._files.call(find, model=spec.name, begun=partial(progress.enter, "opening"))

    async def _serve_meanwhile(
        self, plain: PlainLoader, spec: ModelSpec, recipe: EngineRecipe | None, progress: LoadProgress
    ) -> LoadedModel[Any, Any]:
        model = await plain.load(spec, progress)
        self._begin(spec, recipe, model)
        return model

    async def _load_plain(self, spec: ModelSpec, progress: LoadProgress) -> LoadedModel[Any, Any]:
        if self._plain is None:
            raise ModelError(f"There is no engine for the model. {self.status(spec.name).reason or ''}".rstrip())
        return await self._plain.load(spec, progress)

    async def _open(self, recipe: EngineRecipe, kept: KeptPlan) -> LoadedModel[Any, Any]:
        engine = EngineLane(recipe, self._recipes.source.kit, kept.plan, ItemMemory(self._options.most_canvases))
        model = await engine.serve(
            self._backend(recipe),
            self._metrics,
            max_waiting=self._options.max_waiting,
            timeout_s=self._options.load_timeout_s,
        )
        self._board.enter(recipe.spec.name, EngineStatus(state="serving"))
        return model

    def _begin(self, spec: ModelSpec, recipe: EngineRecipe | None, model: LoadedModel[Any, Any] | None) -> None:
        name = spec.name
        if self._is_closed:
            return
        self._board.enter(name, EngineStatus(state="building", progress=0.0))
        task = asyncio.create_task(self._build(spec, recipe, model), name=f"engine {name}")
        self._builds[name] = task
        task.add_done_callback(lambda _: self._builds.pop(name, None))

    async def _build(self, spec: ModelSpec, recipe: EngineRecipe | None, model: LoadedModel[Any, Any] | None) -> None:
        name = spec.name
        try:
            recipe = recipe or (await self._look_up(spec, LoadProgress()))[0]
            self._options.may_build(recipe)
            kept = await self._run_child(recipe)
            if model is None:
                self._unkept[name] = kept
            else:
                await self._take_over(recipe, kept, model)
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

    async def _run_child(self, recipe: EngineRecipe) -> KeptPlan:
        name = recipe.spec.name
        loop = asyncio.get_running_loop()
        job = recipe.job(self._recipes.source.factory, self._recipes.plans.folder)
        announcer, started = Announcer(), time.monotonic()

        def on_step(step: Step) -> None:
            loop.call_soon_threadsafe(self._board.note_step, name, step, announcer, time.monotonic() - started)

        child = self._options.child(job, on_step)
        self._children[name] = child
        _log.info("engine is built", model=name, precision=recipe.request.precision, kit=self._recipes.source.kit.name)
        try:
            kept = await loop.run_in_executor(self._builder, child.run)
            self._built.add(name)
        finally:
            del self._children[name]
        self._board.note_built(name, kept.record, time.monotonic() - started)
        return kept

    async def _take_over(self, recipe: EngineRecipe, kept: KeptPlan, model: LoadedModel[Any, Any]) -> None:
        name = recipe.spec.name
        engine = EngineLane(recipe, self._recipes.source.kit, kept.plan, model.items)
        try:
            await model.batcher.replace_lanes(
                [engine.lane()], max_batch=recipe.max_batch_size, probe_items=[engine.probe_item]
            )
        except ShuttingDownError:
            raise
        except Exception as error:
            raise ModelError(self._unopened(recipe, error)) from error
        if self._store is not None:
            self._store.note_backend(name, self._backend(recipe))
        self._board.enter(name, EngineStatus(state="serving"))
        _log.info("engine has taken over", model=name, backend=self._backend(recipe))

    def _backend(self, recipe: EngineRecipe) -> str:
        """Return what an operator sees: the toolkit and the precision."""
        return f"{self._recipes.source.kit.name}-{recipe.request.precision}"

    def _unopened(self, recipe: EngineRecipe, error: Exception) -> str:
        """Say that an engine did not open, and let go of a plan that is to blame for it."""
        if isinstance(error, EngineLoadError):
            self._recipes.plans.discard(recipe.key)
        return f"The engine does not open in the service: {_words(error)}"

    def _reject(self, name: str, reason: str, cause: BaseException | None = None) -> None:
        self._board.reject(name, reason, is_served=self._plain is not None, cause=cause)


def _words(error: Exception) -> str:
    return error.message if isinstance(error, ServiceError) else "Something went wrong; the log says what."
