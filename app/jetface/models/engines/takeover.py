"""Engines in service: one that is kept is opened at once, another is built while something else answers.

States of an engine: absent -> building -> checking -> serving, or rejected with a reason until the next start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import structlog

from jetface.backends.engines.child import EngineChild
from jetface.backends.engines.files import KeptPlan
from jetface.backends.engines.job import EngineJob, Step
from jetface.backends.engines.states import Announcer, EngineStatus
from jetface.errors import EngineLoadError, ModelError, ServiceError, ShuttingDownError
from jetface.metrics import Metrics
from jetface.models.engines.board import EngineBoard
from jetface.models.engines.lane import EngineLane
from jetface.models.engines.recipe import EngineRecipe, EngineRecipes
from jetface.models.items import ItemMemory
from jetface.models.loaded import LoadedModel, LoadProgress
from jetface.models.loading import WeightsSupply
from jetface.specs import ModelSpec
from jetface.threads import SlowWork

_log = structlog.get_logger(__name__)


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
