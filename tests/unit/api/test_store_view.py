"""What the health routes are told of the models."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from jetface.api.answers import EngineAnswer
from jetface.api.services import Verdict
from jetface.api.status import StoreView
from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.engines.plan import EngineStatus
from jetface.errors import InferenceError, ModelBuildingError, ModelFileError, ModelStuckError, ServiceError
from jetface.metrics import Metrics
from jetface.models.loaded import LoadedModel, LoadProgress
from jetface.models.store import ModelStore
from jetface.registry import ModelSpec
from tests.support.tiny_onnx import scrfd_spec

SPEC = scrfd_spec(canvas_hw=(64, 96))
NAME = SPEC.name


class Model:
    """A model the test can break, and whose runs it can hold up."""

    def __init__(self) -> None:
        self.num_loads = 0
        self.load_error: ServiceError | None = None
        self.run_error: Exception | None = None
        self.may_run = threading.Event()
        self.may_run.set()

    async def load(self, spec: ModelSpec, progress: LoadProgress) -> LoadedModel[Any, Any]:
        """Load, or fail."""
        del progress
        self.num_loads += 1
        if self.load_error is not None:
            raise self.load_error
        batcher: Batcher[Any, Any] = Batcher(
            spec.name, [Lane(run=self._run)], max_batch=1, max_waiting=8, metrics=Metrics(), probe_items=[0]
        )
        return LoadedModel(spec=spec, backend="none", batcher=batcher, cpu_nodes=("PRelu bent",))

    def _run(self, items: Sequence[Any]) -> Sequence[Any]:
        self.may_run.wait(10)
        if self.run_error is not None:
            raise self.run_error
        return items


@pytest.fixture
def model() -> Model:
    """A model that works."""
    return Model()


@pytest.fixture
async def store(model: Model) -> AsyncIterator[ModelStore]:
    """A store of one model."""
    opened = ModelStore({NAME: SPEC}, model.load, Metrics())
    yield opened
    model.may_run.set()
    await opened.close(grace_s=1)


@pytest.fixture
def view(store: ModelStore) -> StoreView:
    """A view whose watchdog is quick."""
    return StoreView(store, active=[NAME], watchdog_s=0.05)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in the background."""
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


async def run_once(store: ModelStore) -> None:
    """Run one item; its failure is the test's own."""
    loaded = await store.get(NAME)
    deadline = asyncio.get_running_loop().time() + 5
    with contextlib.suppress(InferenceError):
        await loaded.batcher.submit([1], group=0, deadline=deadline)


async def test_a_model_that_was_never_needed_is_ready(view: StoreView) -> None:
    assert view.readiness().is_ok
    assert view.liveness().is_ok
    assert (await view.self_check(deadline=asyncio.get_running_loop().time() + 1)).is_ok
    (facts,) = view.models()
    assert (facts["name"], facts["state"], facts["is_active"], facts["input_hw"]) == (NAME, "unloaded", True, (64, 96))


async def test_a_load_that_hangs_fails_liveness(view: StoreView, store: ModelStore, model: Model) -> None:
    model.load_error = ModelStuckError("The opening of model tiny hangs.")
    with contextlib.suppress(ModelStuckError):
        await store.get(NAME)
    assert view.liveness() == Verdict(is_ok=False, reason="The opening of model tiny hangs.")


async def test_nodes_that_stay_on_the_cpu_are_told_until_another_backend_takes_over(
    view: StoreView, store: ModelStore
) -> None:
    await store.get(NAME)
    assert view.models()[0]["cpu_nodes"] == ("PRelu bent",)
    store.note_backend(NAME, "tensorrt-fp16")
    (facts,) = view.models()
    assert (facts["backend"], facts["cpu_nodes"]) == ("tensorrt-fp16", ())


async def test_a_failed_load_is_not_ready_and_is_tried_again(view: StoreView, store: ModelStore, model: Model) -> None:
    """Nobody sends requests to a service that is not ready, so the readiness check itself tries again."""
    model.load_error = ModelFileError("The weights are gone.")
    with pytest.raises(ModelFileError):
        await store.get(NAME)
    model.load_error = None
    verdict = view.readiness()
    assert not verdict.is_ok
    assert verdict.reason == f"{NAME}: The weights are gone."
    await until(lambda: view.readiness().is_ok)


async def test_a_load_that_fails_again_is_not_tried_at_every_check(
    view: StoreView, store: ModelStore, model: Model
) -> None:
    model.load_error = ModelFileError("The weights are gone.")
    with pytest.raises(ModelFileError):
        await store.get(NAME)
    view.readiness()
    await until(lambda: model.num_loads == 2)
    view.readiness()
    await asyncio.sleep(0.05)
    assert model.num_loads == 2


async def test_a_failed_run_is_not_ready_until_a_probe_passes(view: StoreView, store: ModelStore, model: Model) -> None:
    model.run_error = RuntimeError("the device is gone")
    await run_once(store)
    assert view.readiness().reason == f"{NAME}: the last run failed."
    assert not (await view.self_check(deadline=asyncio.get_running_loop().time() + 1)).is_ok
    model.run_error = None
    await until(lambda: view.readiness().is_ok)
    assert (await view.self_check(deadline=asyncio.get_running_loop().time() + 1)).is_ok


async def test_a_stuck_run_is_not_alive(view: StoreView, store: ModelStore, model: Model) -> None:
    model.may_run.clear()
    stuck = asyncio.create_task(run_once(store))
    await until(lambda: not view.liveness().is_ok)
    model.may_run.set()
    await stuck
    assert view.liveness().is_ok


async def test_a_model_that_must_be_loaded_is_not_ready_before(store: ModelStore) -> None:
    """MODEL_PRELOAD=1: alive while weights are downloaded, ready when they serve."""
    view = StoreView(store, active=[NAME], watchdog_s=1, must_be_loaded=True)
    assert view.readiness().reason == f"{NAME}: not loaded yet."
    assert view.liveness().is_ok
    await store.get(NAME)
    assert view.readiness().is_ok


async def test_a_model_that_waits_for_its_engine_is_not_ready_and_says_how_far_it_is(
    model: Model, store: ModelStore
) -> None:
    model.load_error = ModelBuildingError("The engine of model tiny is being built, 41 % done.", retry_after_s=95)
    view = StoreView(store, active=[NAME], watchdog_s=60)
    with pytest.raises(ModelBuildingError):
        await store.get(NAME)
    assert view.readiness() == Verdict(is_ok=False, reason="The engine of model tiny is being built, 41 % done.")
    assert view.models()[0]["state"] == "building"
    model.load_error = None
    await store.get(NAME)
    assert view.readiness().is_ok


async def test_engines_are_shown_where_they_can_be_built(store: ModelStore) -> None:
    assert StoreView(store, active=[NAME], watchdog_s=60).models()[0]["engine"] is None
    status = EngineStatus(state="building", phase="Building engine", elapsed_s=95.123)
    view = StoreView(store, active=[NAME], watchdog_s=60, engine_status={NAME: status}.__getitem__)
    assert view.models()[0]["engine"] == EngineAnswer(
        state="building", phase="Building engine", elapsed_s=95.1, reason=None
    )
