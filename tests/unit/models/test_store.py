"""Models are loaded by the first call that needs them, once, and a failed load is nobody's fate but its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.errors import (
    DeadlineExceededError,
    ModelFileError,
    ModelStuckError,
    NotFoundError,
    ServiceError,
    ShuttingDownError,
)
from jetface.metrics import Metrics
from jetface.models.loaded import LoadedModel, LoadProgress
from jetface.models.store import STEP_ASIDE, ModelState, ModelStore, NotLoaded
from jetface.registry import ModelSpec
from tests.support.tiny_onnx import scrfd_spec

SPEC = scrfd_spec()
NAME = SPEC.name


class Loads:
    """Loads that count themselves, take as long as the test says, and fail when told to."""

    def __init__(self) -> None:
        self.count = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error: Exception | None = None
        self.progress: LoadProgress | None = None

    async def load(self, spec: ModelSpec, progress: LoadProgress) -> LoadedModel[Any, Any]:
        """Return a model whose results are its items."""
        self.progress = progress
        self.count += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        batcher: Batcher[Any, Any] = Batcher(spec.name, [Lane(run=list)], max_batch=1, max_waiting=8, metrics=Metrics())
        return LoadedModel(spec=spec, backend="none", batcher=batcher)


@pytest.fixture
async def loads() -> Loads:
    """Loads that succeed at once."""
    return Loads()


@pytest.fixture
async def store(loads: Loads) -> AsyncIterator[ModelStore]:
    """A store of one model."""
    opened = ModelStore({NAME: SPEC}, loads.load, Metrics())
    yield opened
    loads.may_end.set()
    await opened.close(grace_s=1)


async def test_nothing_is_loaded_before_it_is_needed(store: ModelStore, loads: Loads) -> None:
    assert store.status(NAME).state is ModelState.UNLOADED
    assert loads.count == 0


async def test_any_number_of_first_calls_share_one_load(store: ModelStore, loads: Loads) -> None:
    loads.may_end.clear()
    calls = [asyncio.create_task(store.get(NAME)) for _ in range(32)]
    await asyncio.sleep(0.01)
    assert store.status(NAME).state is ModelState.LOADING
    loads.may_end.set()
    models = await asyncio.gather(*calls)
    assert loads.count == 1
    assert len({id(model) for model in models}) == 1
    assert store.status(NAME).state is ModelState.SERVING
    assert store.status(NAME).backend == "none"


async def test_who_cannot_wait_is_told_what_is_not_loaded(store: ModelStore, loads: Loads) -> None:
    with pytest.raises(NotLoaded) as missing:
        store.at_once(NAME)
    assert missing.value.name == NAME
    assert loads.count == 0
    assert await store.get(NAME) is store.at_once(NAME)


async def test_a_request_steps_aside_for_as_long_as_it_waits(store: ModelStore, loads: Loads) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def step_aside(refusal: ServiceError) -> AsyncIterator[None]:
        assert (refusal.code, refusal.retry_after_s) == ("model_loading", 5)
        assert refusal.details == {"model": NAME, "phase": "waiting", "progress": None}
        events.append("aside")
        yield
        events.append("back")

    async def ask() -> None:
        STEP_ASIDE.set(step_aside)
        await store.get(NAME)

    loads.may_end.clear()
    asked = asyncio.create_task(ask())
    await asyncio.sleep(0.01)
    assert events == ["aside"]
    loads.may_end.set()
    await asked
    await asyncio.create_task(ask())  # one that does not wait takes no step
    assert events == ["aside", "back"]


async def test_a_failed_load_fails_each_call_with_an_error_of_its_own(store: ModelStore, loads: Loads) -> None:
    loads.error = ModelFileError("The weights are gone.", hint="look again")
    errors = await asyncio.gather(*(store.get(NAME) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in errors] == [ModelFileError] * 3
    assert len({id(error) for error in errors}) == 3
    assert {str(error) for error in errors} == {"The weights are gone."}
    assert store.status(NAME).reason == "The weights are gone."


async def test_the_next_call_tries_a_failed_load_again(store: ModelStore, loads: Loads) -> None:
    loads.error = ModelFileError("The weights are gone.")
    with pytest.raises(ModelFileError):
        await store.get(NAME)
    loads.error = None
    assert (await store.get(NAME)).spec is SPEC
    assert loads.count == 2


async def test_an_unexpected_failure_is_told_without_its_details(store: ModelStore, loads: Loads) -> None:
    loads.error = RuntimeError("/secret/path")
    with pytest.raises(Exception, match="could not be loaded") as caught:
        await store.get(NAME)
    assert "/secret" not in str(caught.value)


async def test_a_caller_that_goes_leaves_the_load_to_the_others(store: ModelStore, loads: Loads) -> None:
    loads.may_end.clear()
    gone, stays = (asyncio.create_task(store.get(NAME)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    loads.may_end.set()
    assert (await stays).spec is SPEC
    assert loads.count == 1


async def test_who_cannot_wait_longer_is_told_how_far_the_load_is(store: ModelStore, loads: Loads) -> None:
    """A 504 that says why, and when to come back; the load goes on."""
    loads.may_end.clear()
    deadline = asyncio.get_running_loop().time() + 0.1
    first = asyncio.create_task(store.get(NAME, deadline=deadline))
    await asyncio.sleep(0.01)
    assert loads.progress is not None
    with pytest.raises(DeadlineExceededError, match="being loaded: it waits for other models"):
        await first
    loads.progress.enter("downloading")
    loads.progress.note_bytes(25 * 2**20, 100 * 2**20)
    await asyncio.sleep(0.01)
    with pytest.raises(DeadlineExceededError, match="being loaded: downloading, 25 of 100 MiB") as caught:
        await store.get(NAME, deadline=deadline)
    assert asyncio.get_running_loop().time() < deadline + 5
    assert caught.value.details == {"model": NAME, "phase": "downloading", "progress": 0.25}
    assert (caught.value.retry_after_s or 0) >= 1
    loads.progress.enter("opening")
    with pytest.raises(DeadlineExceededError, match="opening, for 0 s"):
        await store.get(NAME, deadline=deadline)
    loads.may_end.set()
    assert (await store.get(NAME, deadline=asyncio.get_running_loop().time() + 10)).spec is SPEC
    assert loads.count == 1


async def test_a_load_that_hangs_is_known_by_its_state(store: ModelStore, loads: Loads) -> None:
    loads.error = ModelStuckError("It hangs.")
    with pytest.raises(ModelStuckError):
        await store.get(NAME)
    assert store.status(NAME).is_stuck
    loads.error = None
    await store.get(NAME)
    assert not store.status(NAME).is_stuck


async def test_an_unknown_name_is_not_found(store: ModelStore) -> None:
    with pytest.raises(NotFoundError):
        await store.get("huge")
    assert [status.spec.name for status in store.statuses()] == [NAME]


async def test_closing_gives_up_loads_and_refuses_new_ones(store: ModelStore, loads: Loads) -> None:
    loads.may_end.clear()
    waiting = asyncio.create_task(store.get(NAME))
    await asyncio.sleep(0.01)
    await store.close(grace_s=1)
    with pytest.raises(ShuttingDownError):
        await waiting
    with pytest.raises(ShuttingDownError):
        await store.get(NAME)


async def answers(model: LoadedModel[Any, Any]) -> list[Any]:
    outcome = await model.batcher.submit([1], group=0, deadline=asyncio.get_running_loop().time() + 60)
    return outcome.results


async def test_what_is_unloaded_is_loaded_again_by_the_next_call(store: ModelStore, loads: Loads) -> None:
    former = await store.get(NAME)
    await store.unload(NAME, reason="Nobody needs it.")
    assert store.serving(NAME) is None
    assert (store.status(NAME).state, store.status(NAME).reason) == (ModelState.UNLOADED, "Nobody needs it.")
    with pytest.raises(ShuttingDownError):
        await answers(former)
    assert await answers(await store.get(NAME)) == [1]
    assert loads.count == 2


async def test_to_unload_what_is_not_loaded_does_nothing(store: ModelStore, loads: Loads) -> None:
    await store.unload(NAME, reason="x")
    assert store.status(NAME).reason is None
    loads.error = ModelFileError("The weights are gone.")
    with pytest.raises(ModelFileError):
        await store.get(NAME)
    await store.unload(NAME, reason="x")
    assert store.status(NAME).state is ModelState.FAILED
    with pytest.raises(NotFoundError):
        await store.unload("huge", reason="x")


async def test_a_model_is_not_closed_under_those_who_hold_it(store: ModelStore) -> None:
    """Between getting a model and its answer a request draws; it must find the model open after that."""
    model = await store.get(NAME)
    with model.users:
        unloading = asyncio.create_task(store.unload(NAME, reason="x"))
        await asyncio.sleep(0.05)
        assert store.serving(NAME) is None
        assert not unloading.done()
        assert model.users.idle_s == 0
        assert await answers(model) == [1]
    await unloading
    assert model.users.idle_s >= 0


async def test_calls_while_it_is_unloaded_and_loaded_lose_nothing(store: ModelStore) -> None:
    async def call() -> None:
        model = await store.get(NAME)
        with model.users:
            await asyncio.sleep(0.001)
            assert await answers(model) == [1]

    async def churn() -> None:
        for turn in range(10):
            await (store.unload(NAME, reason="x") if turn % 2 else store.reload({NAME: SPEC}, NAME))

    churning = asyncio.create_task(churn())
    while not churning.done():
        await asyncio.gather(*(call() for _ in range(8)))
    await churning


async def test_a_reload_sees_a_new_entry_while_the_former_serves(store: ModelStore, loads: Loads) -> None:
    former = await store.get(NAME)
    other = SPEC.model_copy(update={"name": "other"})
    changed = SPEC.model_copy(update={"license": "another"})
    loads.may_end.clear()
    reloading = asyncio.create_task(store.reload({NAME: changed, "other": other}, NAME))
    await asyncio.sleep(0.02)
    assert store.serving(NAME) is former
    assert store.status(NAME).state is ModelState.SERVING
    loads.may_end.set()
    model = await reloading
    assert model.spec.license == "another"
    assert await store.get(NAME) is model
    assert (await store.get("other")).spec is other
    assert loads.count == 3


async def test_a_reload_that_fails_leaves_the_former_to_serve(store: ModelStore, loads: Loads) -> None:
    former = await store.get(NAME)
    loads.error = ModelFileError("The weights are gone.")
    with pytest.raises(ModelFileError):
        await store.reload({NAME: SPEC}, NAME)
    assert store.status(NAME).state is ModelState.SERVING
    assert await answers(await store.get(NAME)) == [1]
    assert store.serving(NAME) is former


async def test_a_reload_of_what_is_not_loaded_loads_it(store: ModelStore, loads: Loads) -> None:
    assert (await store.reload({NAME: SPEC}, NAME)).spec is SPEC
    assert loads.count == 1
    with pytest.raises(NotFoundError):
        await store.reload({NAME: SPEC}, "huge")


async def test_closing_does_not_wait_for_those_who_hold_what_was_unloaded(store: ModelStore) -> None:
    model = await store.get(NAME)
    with model.users:
        unloading = asyncio.create_task(store.unload(NAME, reason="x"))
        await asyncio.sleep(0.02)
        await asyncio.wait_for(store.close(grace_s=1), 5)
        assert store.loaded() == []
    unloading.cancel()
    await asyncio.gather(unloading, return_exceptions=True)
