"""Engines built by real processes while a real model answers: who is served by what, and when."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog.testing

from jetface.domain import Embedding, Image
from jetface.engines.build import run_job
from jetface.engines.job import Accepted, EngineJob, EngineSource
from jetface.engines.plan import EngineStatus, PlanFolder, PlanRecord
from jetface.engines.takeover import EngineLoader
from jetface.errors import InferenceError, MemoryPressureError, ModelBuildingError, ModelError
from jetface.metrics import Metrics
from jetface.models.loading import LoadOptions, ModelLoader
from jetface.models.store import ModelState, ModelStore
from jetface.models.weights import WeightsFolder
from jetface.registry import ModelSpec
from jetface.runtimes.choose import select_backend
from tests.support import stand_in_kit
from tests.support.engine_jobs import jobs_of, tiny_job, tiny_recognizer
from tests.support.shared import REPOSITORY
from tests.support.stand_in_kit import StandInKit

PATIENCE_S = 90.0


class Rig:
    """A store over an engine loader, as the service has it."""

    def __init__(self, folder: Path, *, plain: bool = True, **options: Any) -> None:
        self.spec: ModelSpec = tiny_recognizer(folder)
        self.kit = StandInKit()
        self.metrics = Metrics()
        self.plans = PlanFolder(folder / "engines")
        weights = WeightsFolder(folder=folder)
        load_options = LoadOptions(num_cores=1, det_batch_size=2, rec_batch_size=4, max_waiting=512)
        self.plain = ModelLoader(weights, select_backend("onnxruntime"), load_options, self.metrics)
        jobs = jobs_of(folder, source=EngineSource(self.kit, stand_in_kit.FACTORY))
        options = {"max_waiting": 512, "serves_meanwhile": True, **options}
        self.engines = EngineLoader(jobs, self.plain if plain else None, self.metrics, **options)
        self.store = ModelStore(
            {self.spec.name: self.spec}, self.engines.load, self.metrics, release=self.engines.release
        )
        self.engines.follow(self.store)

    @property
    def engine(self) -> EngineStatus:
        return self.engines.status(self.spec.name)

    async def embed(self, *crops: Image) -> list[Embedding]:
        model = await self.store.get(self.spec.name)
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        return list((await model.batcher.submit(crops, group=object(), deadline=deadline)).results)

    async def until(self, holds: Callable[[], bool]) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while not holds():
            assert asyncio.get_running_loop().time() < deadline, self.engine
            await asyncio.sleep(0.01)

    async def until_engine(self, *states: str) -> None:
        await self.until(lambda: self.engine.state in states)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"model": self.spec.name, **labels})


@contextlib.asynccontextmanager
async def rig(folder: Path, **options: Any) -> AsyncIterator[Rig]:
    opened = Rig(folder, **options)
    with structlog.testing.capture_logs():
        try:
            yield opened
        finally:
            await opened.engines.close()
            await opened.store.close(grace_s=5)
            opened.plain.close()


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def crops() -> list[Image]:
    return list(np.random.default_rng(0).integers(0, 256, (8, 112, 112, 3), np.uint8))


async def test_a_reload_ends_the_build_under_way_and_begins_anew(tmp_path: Path, crops: list[Image]) -> None:
    """And what waits for an engine, an idle model for one, can be told."""
    async with rig(tmp_path) as service:
        name = service.spec.name
        await service.embed(crops[0])
        assert service.engines.is_building(name)
        model = await service.store.reload({name: service.spec}, name)
        assert model.backend == "onnxruntime-cpu"
        assert service.engine.state in {"building", "checking"}
        await service.until_engine("serving")
        await service.until(lambda: not service.engines.is_building(name))
        await service.embed(crops[0])
        reloaded = await service.store.reload({name: service.spec}, name)
        assert reloaded.backend == "stand-in-fp32"
        assert reloaded.sha256 == service.store.status(name).sha256
        assert len(reloaded.sha256 or "") == 64
        await service.embed(crops[0])


async def test_callers_are_answered_at_once_and_by_the_engine_when_it_is_there(
    tmp_path: Path, crops: list[Image]
) -> None:
    async with rig(tmp_path) as service:
        (before,) = await service.embed(crops[0])
        assert service.store.status(service.spec.name).backend == "onnxruntime-cpu"
        assert service.engine.state in {"building", "checking"}
        assert service.engine.elapsed_s is not None
        await service.until_engine("serving")
        (after,) = await service.embed(crops[0])
        assert service.store.status(service.spec.name).backend == "stand-in-fp32"
        assert service.sample("jetface_model_backend", backend="stand-in-fp32") == 1
        assert service.sample("jetface_model_backend", backend="onnxruntime-cpu") is None
        assert service.sample("jetface_engine_state", state="serving") == 1
        assert service.sample("jetface_engine_state", state="building") == 0
        assert (service.sample("jetface_engine_build_seconds") or 0) > 0
        (engine,) = service.kit.opened
        assert engine.num_runs > 1
        assert engine.max_batch_size == (await service.store.get(service.spec.name)).batcher.max_batch == 4
    assert engine.is_closed
    np.testing.assert_allclose(before.vector, after.vector, atol=1e-5)


async def test_a_plan_that_is_kept_serves_from_the_first_request_on(
    tmp_path: Path, crops: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[object] = []
    run_job(tiny_job(tmp_path), tmp_path / "unused", reports.append)
    assert isinstance(reports[-1], Accepted)
    monkeypatch.setenv("STAND_IN_FAULT", "build")
    async with rig(tmp_path) as service:
        await service.embed(crops[0])
        assert service.store.status(service.spec.name).backend == "stand-in-fp32"
        assert service.engine == EngineStatus(state="serving")


@pytest.mark.parametrize("damage", ["flipped", "unopenable"])
async def test_a_plan_that_is_of_no_use_is_built_anew(tmp_path: Path, crops: list[Image], damage: str) -> None:
    recipe, plans = tiny_job(tmp_path).recipe, PlanFolder(tmp_path / "engines")
    plan = b"another world's plan" if damage == "unopenable" else stand_in_kit.HEADER
    assert plans.keep(plan, PlanRecord.of(recipe, plan, verdict="good", build_s=1))
    if damage == "flipped":
        (tmp_path / "engines" / recipe.file_name).write_bytes(plan[:-1] + b"!")
    async with rig(tmp_path) as service:
        await service.embed(crops[0])
        await service.until_engine("serving")
        await service.embed(crops[0])
    found = plans.find(recipe)
    assert found is not None
    assert len(found.plan) > len(plan)


@pytest.mark.parametrize("fault", ["die", "wrong"])
async def test_a_build_that_fails_leaves_the_service_as_it_was(
    tmp_path: Path, crops: list[Image], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    log = tmp_path / "builds.log"
    monkeypatch.setenv("STAND_IN_FAULT", fault)
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    async with rig(tmp_path) as service:
        await service.embed(crops[0])
        await service.until_engine("rejected")
        assert service.engine.reason
        await service.embed(crops[0])
        assert service.store.status(service.spec.name).backend == "onnxruntime-cpu"
        assert service.sample("jetface_engine_state", state="rejected") == 1
    assert service.plans.entries() == []
    assert len(log.read_text().splitlines()) == 1
    monkeypatch.delenv("STAND_IN_FAULT")
    async with rig(tmp_path) as service:
        await service.embed(crops[0])
        await service.until_engine("serving")


@pytest.mark.parametrize("seed", range(2))
async def test_a_build_that_is_killed_from_outside_harms_nobody(
    tmp_path: Path, crops: list[Image], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """As the kernel does when memory runs out: at any moment, by SIGKILL."""
    log = tmp_path / "builds.log"
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    monkeypatch.setenv("STAND_IN_STEP_S", "0.1")
    async with rig(tmp_path) as service:
        await service.embed(crops[0])
        await service.until(lambda: log.exists() and log.read_text().endswith("\n"))
        await asyncio.sleep(random.Random(seed).uniform(0, 0.8))
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(log.read_text().split()[1]), signal.SIGKILL)
        await service.until_engine("rejected", "serving")
        assert len(await service.embed(*crops)) == len(crops)
        assert service.engine.state == "serving" or "SIGKILL" in (service.engine.reason or "")
    assert len(service.plans.entries()) <= 1
    async with rig(tmp_path) as service:
        await service.embed(crops[0])
        await service.until_engine("serving")


async def test_under_load_no_request_is_lost_and_every_answer_is_the_same(
    tmp_path: Path, crops: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "0.1")
    async with rig(tmp_path) as service:
        expected = [embedding.vector for embedding in await service.embed(*crops)]
        is_over = asyncio.Event()

        async def call(caller: int) -> int:
            count = 0
            while not is_over.is_set():
                picked = [(caller + count + step) % len(crops) for step in range(1 + count % 3)]
                results = await service.embed(*(crops[index] for index in picked))
                for index, result in zip(picked, results, strict=True):
                    np.testing.assert_allclose(result.vector, expected[index], atol=1e-4)
                count += 1
            return count

        callers = [asyncio.create_task(call(number)) for number in range(8)]
        await service.until_engine("serving")
        (engine,) = service.kit.opened
        runs = engine.num_runs
        await service.until(lambda: engine.num_runs > runs + 20)
        is_over.set()
        assert min(await asyncio.gather(*callers)) > 0
        assert not (await service.store.get(service.spec.name)).batcher.last_run_failed


@pytest.mark.parametrize("plain", [True, False], ids=["not-wanted", "not-to-be-had"])
async def test_where_nothing_answers_meanwhile_callers_are_told_to_wait(
    tmp_path: Path, crops: list[Image], monkeypatch: pytest.MonkeyPatch, *, plain: bool
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "0.1")
    async with rig(tmp_path, plain=plain, serves_meanwhile=False) as service:
        for _ in range(3):
            with pytest.raises(ModelBuildingError, match="is being built") as caught:
                await service.embed(crops[0])
            assert (caught.value.retry_after_s or 0) > 0
            assert service.store.status(service.spec.name).state is ModelState.BUILDING
        await service.until(lambda: service.store.status(service.spec.name).state is ModelState.SERVING)
        assert service.store.status(service.spec.name).backend == "stand-in-fp32"
        assert len(await service.embed(crops[0])) == 1


async def test_without_an_engine_what_was_not_wanted_answers_after_all(
    tmp_path: Path, crops: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "build")
    async with rig(tmp_path, serves_meanwhile=False) as service:
        with pytest.raises(ModelBuildingError):
            await service.embed(crops[0])
        await service.until(lambda: service.store.status(service.spec.name).state is ModelState.SERVING)
        assert service.store.status(service.spec.name).backend == "onnxruntime-cpu"


async def test_without_an_engine_and_anything_else_the_reason_is_told(
    tmp_path: Path, crops: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "build")
    async with rig(tmp_path, plain=False) as service:
        with pytest.raises(ModelBuildingError):
            await service.embed(crops[0])
        await service.until(lambda: service.store.status(service.spec.name).state is ModelState.FAILED)
        with pytest.raises(ModelError, match="Conv_7"):
            await service.embed(crops[0])


async def test_a_folder_that_cannot_be_written_costs_a_build_at_each_start_and_nothing_else(
    tmp_path: Path, crops: list[Image]
) -> None:
    for name in ("engines", "prepared"):
        (tmp_path / name).write_text("a file where a folder should be")
    async with rig(tmp_path) as service:
        await service.embed(crops[0])
        await service.until_engine("serving")
        await service.embed(crops[0])
        assert service.store.status(service.spec.name).backend == "stand-in-fp32"


@pytest.mark.parametrize("serves_meanwhile", [True, False])
async def test_an_engine_that_does_not_open_in_the_service_is_rejected(
    tmp_path: Path, crops: list[Image], *, serves_meanwhile: bool
) -> None:
    """Its check passed in the building process; here, say, memory is short."""
    async with rig(tmp_path, serves_meanwhile=serves_meanwhile) as service:
        service.kit.is_gone = True
        if serves_meanwhile:
            await service.embed(crops[0])
        else:
            with pytest.raises(ModelBuildingError):
                await service.embed(crops[0])
        await service.until_engine("rejected")
        assert service.engine.reason == "The engine does not open in the service: There is no device."
        assert len(await service.embed(crops[0])) == 1
        assert service.plans.entries() == []


async def test_a_fault_that_nobody_foresaw_rejects_the_engine_too(tmp_path: Path, crops: list[Image]) -> None:
    def fail(_: EngineJob) -> None:
        raise RuntimeError("a fault of ours")

    async with rig(tmp_path, may_build=fail) as service:
        await service.embed(crops[0])
        await service.until_engine("rejected")
        assert "the log says what" in (service.engine.reason or "")
        await service.embed(crops[0])


async def test_an_engine_that_fails_later_flips_readiness_until_a_probe_passes(
    tmp_path: Path, crops: list[Image]
) -> None:
    async with rig(tmp_path) as service:
        await service.embed(crops[0])
        await service.until_engine("serving")
        (engine,) = service.kit.opened
        engine.is_broken = True
        with pytest.raises(InferenceError):
            await service.embed(crops[0])
        batcher = (await service.store.get(service.spec.name)).batcher
        assert batcher.last_run_failed
        assert not await batcher.probe()
        engine.is_broken = False
        assert await batcher.probe()
        assert len(await service.embed(crops[0])) == 1


async def test_no_build_is_begun_without_room_for_it(tmp_path: Path, crops: list[Image]) -> None:
    def refuse(job: EngineJob) -> None:
        raise MemoryPressureError(f"There is too little free memory to build {job.spec.name}.")

    async with rig(tmp_path, may_build=refuse) as service:
        await service.embed(crops[0])
        await service.until_engine("rejected")
        assert "too little free memory" in (service.engine.reason or "")


async def test_a_service_that_closes_ends_its_build(
    tmp_path: Path, crops: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "60")
    async with rig(tmp_path) as service:
        await service.embed(crops[0])
        await service.until(lambda: service.engine.phase is not None)
    assert service.engine.state == "building"
    assert service.plans.entries() == []


async def test_a_graph_that_cannot_be_written_anywhere_leaves_the_model_to_others(
    tmp_path: Path, crops: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, tmp_path / "engines"):
        folder.mkdir(exist_ok=True)
        (folder / "prepared").write_text("a file where a folder should be")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))  # the knob that its documentation names
    async with rig(tmp_path) as service:
        await service.embed(crops[0])
        await service.until_engine("rejected")
        assert "written nowhere" in (service.engine.reason or "")
    with pytest.raises(ModelError, match="written nowhere"):
        async with rig(tmp_path, plain=False) as service:
            await service.embed(crops[0])
