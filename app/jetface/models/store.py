"""Models by name: loaded on the first call that needs them, once under any concurrency."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias

import structlog

from jetface.device.machine import trim_memory
from jetface.errors import (
    DeadlineExceededError,
    ModelBuildingError,
    ModelContractError,
    ModelError,
    ModelLoadingError,
    ModelStuckError,
    NotFoundError,
    ServiceError,
    ShuttingDownError,
)
from jetface.metrics import Metrics
from jetface.models.loaded import LoadedModel, LoadProgress
from jetface.registry import ModelSpec, RegistryError

_log = structlog.get_logger(__name__)


class ModelState(str, Enum):
    """Where a model is in its life."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    BUILDING = "building"
    SERVING = "serving"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """What an operator can know of a model now."""

    spec: ModelSpec
    state: ModelState
    reason: str | None = None
    """Why the last load failed, what it waits for, or why it was unloaded, one sentence; None where it never was, and
    where it serves."""
    backend: str | None = None
    is_batch_free: bool | None = None
    """Whether a run may take several items; False where the graph may mix them; None before the model is loaded."""
    cpu_nodes: tuple[str, ...] = ()
    """Nodes that run on the CPU although a GPU was asked for, `operator name`."""
    sha256: str | None = None
    """Of the file that serves."""
    load_s: float | None = None
    progress: LoadProgress | None = None
    """How far its load is; None unless it is `loading`."""
    is_stuck: bool = False
    """Whether its last load hangs: only another process can try again."""


_RETIRED_GRACE_S = 10.0
"""Longest wait for runs of a model that goes; probes are all that may still run then."""

_ANSWER_S = 0.05
"""How long before its deadline a request that waits for a load is told so: later the deadline itself ends it."""

StepAside: TypeAlias = Callable[[ServiceError], AbstractAsyncContextManager[None]]
"""Gives back, for a block, what others need; raises the error where that is not to be had."""

STEP_ASIDE: ContextVar[StepAside | None] = ContextVar("step aside", default=None)
"""What a request does while it waits for a load, so that others are served meanwhile; None outside requests."""


class NotLoaded(Exception):  # noqa: N818 - no fault: what is to be done first
    """A model is needed that is not loaded. Whoever needs it lets go of what it holds, and waits with `get`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class ModelStore:
    """Loads models on demand and keeps them. Belongs to one event loop; not thread-safe.

    A load that fails fails every call that waits for it, with its reason; the next call tries again.
    """

    def __init__(
        self,
        registry: Mapping[str, ModelSpec],
        load: Callable[[ModelSpec, LoadProgress], Awaitable[LoadedModel[Any, Any]]],
        metrics: Metrics,
        release: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Create a store; nothing is loaded.

        Args:
            registry: All entries by name.
            load: Loads one, and says how far that is.
            metrics: Where states are shown.
            release: Ends what still works on a model that is to go; None where nothing does.
        """
        self._registry = registry
        self._load = load
        self._metrics = metrics
        self._release = release
        self._loads: dict[str, asyncio.Future[LoadedModel[Any, Any]]] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        """Who unloads or reloads a model, one at a time."""
        self._retired: set[asyncio.Task[None]] = set()
        self._serving: dict[str, LoadedModel[Any, Any]] = {}
        self._statuses: dict[str, ModelStatus] = {}
        self._closed = False
        self.generation = 0
        """Goes up whenever a model begins to serve, goes, or runs on another backend."""

    async def get(self, name: str, *, deadline: float = math.inf) -> LoadedModel[Any, Any]:
        """Return the model, loading it first if need be.

        A caller that is cancelled while it waits leaves the load to the others.

        Args:
            name: A registry entry.
            deadline: `loop.time()` after which the model is of no use to the caller.

        Raises:
            NotFoundError: No such registry entry.
            ModelError: The load failed.
            DeadlineExceededError: It was still being loaded at the deadline; says how far, and when to come back.
            ShuttingDownError: The store is closed.
        """
        while True:
            model = await self._get_loaded(name, deadline)
            # It may have gone while this call waited for its turn of the loop.
            if self._serving.get(name) is model or self._closed:
                return model

    async def _get_loaded(self, name: str, deadline: float) -> LoadedModel[Any, Any]:
        load = self._loads.get(name)
        if load is None:
            if self._closed:
                raise ShuttingDownError("The service is shutting down.")
            task = asyncio.create_task(self._load_once(self.spec(name)), name=f"load {name}")
            load = self._loads[name] = task
            # A failed load must be retried by the next call, and its error read even when every caller has gone.
            task.add_done_callback(lambda task: self._forget_failed(name, task))
        if not load.done():
            step_aside = STEP_ASIDE.get()
            left_s = deadline - asyncio.get_running_loop().time() - _ANSWER_S
            async with step_aside(self._still_loading(name, ModelLoadingError)) if step_aside else nullcontext():
                await asyncio.wait([load], timeout=None if deadline == math.inf else max(0.0, left_s))
                if not load.done():
                    raise self._still_loading(name, DeadlineExceededError)
        try:
            return await asyncio.shield(load)
        except ServiceError as error:
            # One exception object a caller: a shared one would collect everybody's traceback.
            raise error.copy() from error
        except asyncio.CancelledError:
            if self._closed:
                raise ShuttingDownError("The service is shutting down.", retry_after_s=1) from None
            raise

    def at_once(self, name: str) -> LoadedModel[Any, Any]:
        """Return the model if it is loaded.

        Raises:
            NotLoaded: It is not.
        """
        if (model := self._serving.get(name)) is None:
            raise NotLoaded(name)
        return model

    def is_loading(self, name: str) -> bool:
        """Whether a load is under way."""
        load = self._loads.get(name)
        return load is not None and not load.done()

    def serving(self, name: str) -> LoadedModel[Any, Any] | None:
        """Return the model if it is loaded."""
        return self._serving.get(name)

    def spec(self, name: str) -> ModelSpec:
        """Return the registry entry.

        Raises:
            NotFoundError: No such entry.
            ModelContractError: It cannot be read.
        """
        try:
            return self._registry[name]
        except KeyError:
            raise NotFoundError("No model of that name is in the registry.") from None
        except RegistryError as cause:
            raise ModelContractError(f"The registry entry of the model cannot be read: {cause}.") from cause

    def status(self, name: str) -> ModelStatus:
        """Return the state of one registry entry."""
        return self._statuses.get(name) or ModelStatus(spec=self.spec(name), state=ModelState.UNLOADED)

    def statuses(self) -> list[ModelStatus]:
        """Return the state of every registry entry, by name."""
        return [self.status(name) for name in sorted(self._registry)]

    def note_backend(self, name: str, backend: str) -> None:
        """Note that a model that serves runs on another backend from now."""
        self.generation += 1
        self._metrics.set_backend(name, backend)
        self._enter(replace(self.status(name), backend=backend, cpu_nodes=()))

    def loaded(self) -> list[LoadedModel[Any, Any]]:
        """Return the models that serve."""
        return list(self._serving.values())

    async def unload(self, name: str, *, reason: str) -> None:
        """Give a model's memory back; the next call that needs it loads it again.

        Those who hold the model keep it until they are done, and are waited for; a load under way is, too.

        Args:
            name: A registry entry. Where it is not loaded nothing is done.
            reason: One sentence, for its status.

        Raises:
            NotFoundError: No such entry.
        """
        self.spec(name)
        async with self._turn(name):
            load = self._loads.get(name)
            if load is None:
                return
            await asyncio.wait([load])
            model = self._serving.pop(name, None)
            self._loads.pop(name, None)
            if model is None:
                return
            self.generation += 1
            self._enter(ModelStatus(spec=self.spec(name), state=ModelState.UNLOADED, reason=reason))
            self._metrics.forget_model(name)
            _log.info("model unloaded", model=name, reason=reason)
            await asyncio.shield(self._retire(model))

    async def reload(self, registry: Mapping[str, ModelSpec], name: str) -> LoadedModel[Any, Any]:
        """Load a model anew, from the file and the registry entry as they are now, and let it take over.

        The former serves until then, and on where the new one cannot be loaded: both are in memory for a while.

        Args:
            registry: All entries, read anew; they count from now on for whatever is loaded. Those that are gone, or
                cannot be read any more, stay as they were.
            name: One of them.

        Raises:
            NotFoundError: No such entry.
            ModelError: The load failed.
            BackendError: The backend did not open the graph.
        """
        self._registry = {**self._registry, **registry}
        spec = self.spec(name)
        async with self._turn(name):
            if (load := self._loads.get(name)) is not None:
                await asyncio.wait([load])
            if self._release is not None:
                await self._release(name)
            former = self._serving.get(name)
            if former is None or self._closed:
                return await self.get(name)
            _log.info("model reloading", model=name)
            started = time.perf_counter()
            try:
                model = await self._load(spec, LoadProgress())
            except Exception as cause:
                error = cause if isinstance(cause, ServiceError) else ModelError("The model could not be loaded.")
                _log.error("model failed to reload: the former serves on", model=name, exc_info=cause)
                raise error from cause
            self._loads[name] = asyncio.get_running_loop().create_future()
            self._loads[name].set_result(model)
            self._serve(model, time.perf_counter() - started)
            self._retire(former)
            return model

    async def close(self, *, grace_s: float) -> None:
        """Unload everything. What waits in the queues is still run; loads under way are given up.

        Args:
            grace_s: Longest wait for the queues, seconds; what is left then fails with ShuttingDownError.
        """
        self._closed = True
        loads = list(self._loads.values())
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        for task in self._retired:
            task.cancel()
        await asyncio.gather(*self._retired, return_exceptions=True)
        await asyncio.gather(*(model.close(grace_s=grace_s) for model in self.loaded()))
        self._loads.clear()
        self._serving.clear()

    async def _load_once(self, spec: ModelSpec) -> LoadedModel[Any, Any]:
        progress = LoadProgress()
        if self.status(spec.name).state is not ModelState.BUILDING:
            self._enter(ModelStatus(spec=spec, state=ModelState.LOADING, progress=progress))
            self._metrics.watch(self._metrics.load_age.labels(spec.name), lambda: progress.age_s)
            _log.info("model loading", model=spec.name)
        started = time.perf_counter()
        try:
            model = await self._load(spec, progress)
        except ModelBuildingError as building:
            self._enter(ModelStatus(spec=spec, state=ModelState.BUILDING, reason=building.message))
            raise
        except Exception as cause:
            error = cause if isinstance(cause, ServiceError) else ModelError("The model could not be loaded.")
            is_stuck = isinstance(error, ModelStuckError)
            self._enter(ModelStatus(spec=spec, state=ModelState.FAILED, reason=error.message, is_stuck=is_stuck))
            _log.error("model failed to load", model=spec.name, reason=error.message, exc_info=cause)
            if error is cause:
                raise
            raise error from cause
        finally:
            self._metrics.watch(self._metrics.load_age.labels(spec.name), lambda: 0.0)
        self._serve(model, time.perf_counter() - started)
        return model

    def _serve(self, model: LoadedModel[Any, Any], load_s: float) -> None:
        """Let a model answer from now on."""
        name = model.spec.name
        self._metrics.model_load_seconds.labels(name).set(load_s)
        self._metrics.set_backend(name, model.backend)
        self._enter(
            ModelStatus(
                spec=model.spec, state=ModelState.SERVING, backend=model.backend, is_batch_free=model.is_batch_free,
                cpu_nodes=model.cpu_nodes, sha256=model.sha256, load_s=load_s,
            )
        )  # fmt: skip
        self._serving[name] = model
        self.generation += 1
        _log.info("model serving", model=name, backend=model.backend, sha256=model.sha256, load_s=round(load_s, 3))

    def _turn(self, name: str) -> asyncio.Lock:
        return self._turns.setdefault(name, asyncio.Lock())

    def _retire(self, model: LoadedModel[Any, Any]) -> asyncio.Task[None]:
        """Close a model that the store has let go of, when nobody holds it any more."""

        async def close() -> None:
            try:
                await model.users.wait_until_free()
            finally:
                await model.close(grace_s=_RETIRED_GRACE_S)
            gc.collect()
            await asyncio.to_thread(trim_memory)

        task = asyncio.create_task(close(), name=f"retire {model.spec.name}")
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)
        return task

    def _still_loading(self, name: str, kind: type[DeadlineExceededError | ModelLoadingError]) -> ServiceError:
        progress = self.status(name).progress or LoadProgress()
        late = kind is DeadlineExceededError
        what = "The deadline passed while" if late else "As many requests as may wait while"
        return kind(
            f"{what} model {name} was being loaded: {progress.words}.",
            retry_after_s=progress.retry_after_s,
            model=name,
            phase=progress.phase,
            progress=progress.fraction,
        )

    def _enter(self, status: ModelStatus) -> None:
        self._statuses[status.spec.name] = status
        for state in ModelState:
            self._metrics.model_state.labels(status.spec.name, state.value).set(state is status.state)

    def _forget_failed(self, name: str, task: asyncio.Future[LoadedModel[Any, Any]]) -> None:
        if (task.cancelled() or task.exception() is not None) and self._loads.get(name) is task:
            del self._loads[name]
