"""Loading: which of several backends gets a model, on real graphs of a few nodes."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from jetface.domain import Batch, Blob, Tensor
from jetface.errors import InferenceError, ModelFileError, ModelStuckError
from jetface.heads.canvases import DetectorItem
from jetface.metrics import Metrics
from jetface.models.download import Fetcher
from jetface.models.loaded import LoadProgress
from jetface.models.loading import LoadOptions, ModelLoader
from jetface.models.weights import Mirror, WeightsFolder
from jetface.registry import ModelSpec
from jetface.runtimes.backend import Backend
from jetface.runtimes.choose import Opener, Selection, select_backend
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.file_server import Answer, file_server
from tests.support.tiny_onnx import arcface_model, arcface_spec, scrfd_model, scrfd_spec
from tests.support.weights import make_spec as make_weights_spec


@dataclass
class SlowedBackend:
    """A real backend behind a pause."""

    backend: Backend
    pause_s: float
    is_closed: bool = False

    @property
    def max_batch_size(self) -> int:
        return self.backend.max_batch_size

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        time.sleep(self.pause_s)
        return self.backend.run(batch)

    def close(self) -> None:
        self.is_closed = True
        self.backend.close()


@dataclass
class SlowedOpener:
    """A way to run models that takes its time, or does not open them at all."""

    name: str
    pause_s: float = 0.0
    fault: Exception | None = None
    opened: list[SlowedBackend] = field(default_factory=list)
    provider: str = "OpenVINO"
    version: str = "1"
    is_on_cpu: bool = True

    def open(
        self, model: bytes | Path, *, num_lanes: int, max_batch_size: int, num_threads: int = 1
    ) -> Sequence[Backend]:
        if self.fault:
            raise self.fault
        del num_threads
        backends = open_onnx_backends(model, num_lanes=num_lanes, max_batch_size=max_batch_size)
        slowed = [SlowedBackend(backend, self.pause_s) for backend in backends]
        self.opened += slowed
        return slowed


@dataclass(frozen=True)
class Candidates(Selection):
    """A selection of the test's own openers."""

    openers: tuple[Opener, ...] = ()

    def candidates(self, *, keeps_bf16: bool) -> tuple[Opener, ...]:
        del keeps_bf16
        return self.openers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def stored(folder: Path, spec: ModelSpec, serialized: bytes) -> ModelSpec:
    """Put weights into the folder; return the entry with their digest."""
    (folder / spec.file_name).write_bytes(serialized)
    return spec.model_copy(update={"sha256": hashlib.sha256(serialized).hexdigest()})


@pytest.fixture(params=["arcface", "scrfd"])
def spec(request: pytest.FixtureRequest, folder: Path) -> ModelSpec:
    """A recognizer and a detector of free canvas."""
    if request.param == "arcface":
        return stored(folder, arcface_spec(), arcface_model())
    return stored(folder, scrfd_spec(), scrfd_model())


def loader_of(folder: Path, selection: Selection, *, num_cores: int = 2) -> ModelLoader:
    options = LoadOptions(num_cores=num_cores, det_batch_size=4, rec_batch_size=4, max_waiting=16)
    return ModelLoader(WeightsFolder(folder=folder), selection, options, Metrics())


@pytest.fixture
def fast() -> SlowedOpener:
    return SlowedOpener("fast", 0.001)


@pytest.fixture
def slow() -> SlowedOpener:
    return SlowedOpener("slow", 0.02)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as captured:
        yield captured


async def test_the_faster_backend_gets_the_model_and_the_other_one_is_closed(
    folder: Path, spec: ModelSpec, fast: SlowedOpener, slow: SlowedOpener, logs: list[Any]
) -> None:
    """In either order, with both times in the log."""
    for openers in ((slow, fast), (fast, slow)):
        loader = loader_of(folder, Candidates(openers=openers))
        model = await loader.load(spec)
        assert model.backend == "fast"
        assert all(backend.is_closed for backend in slow.opened)
        assert not any(backend.is_closed for backend in fast.opened)
        (line,) = (line for line in logs if line["event"] == "backend chosen")
        assert line["backend"] == "fast"
        assert 1 <= line["run_ms"]["fast"] < 20 <= line["run_ms"]["slow"]
        await model.close(grace_s=5)
        assert all(backend.is_closed for backend in fast.opened)
        loader.close()
        for opener in openers:
            opener.opened.clear()
        logs.clear()


@pytest.mark.parametrize("spec", ["arcface"], indirect=True)
async def test_a_race_is_run_once_for_a_machine_a_file_and_those_who_take_part(
    folder: Path, spec: ModelSpec, fast: SlowedOpener, slow: SlowedOpener, logs: list[Any]
) -> None:
    async def load(*openers: SlowedOpener, num_cores: int = 2) -> list[str]:
        """Load the model anew; return what was measured, and the winner."""
        logs.clear()
        loader = loader_of(folder, Candidates(openers=openers), num_cores=num_cores)
        model = await loader.load(spec)
        await model.close(grace_s=5)
        loader.close()
        (line,) = (line for line in logs if line["event"] == "backend chosen")
        return [*line.get("run_ms", ()), model.backend]

    assert await load(slow, fast) == ["slow", "fast", "fast"]
    slow.opened.clear()
    assert await load(slow, fast) == ["fast"]
    assert not slow.opened
    assert await load(slow, replace(fast, version="2")) == ["slow", "fast", "fast"]
    assert await load(slow, fast, num_cores=1) == ["slow", "fast", "fast"]
    num_verdicts = len([*(folder / "prepared").glob("*.fastest.json")])
    (folder / spec.file_name).touch()
    assert await load(slow, fast) == ["slow", "fast", "fast"]
    assert len([*(folder / "prepared").glob("*.fastest.json")]) == num_verdicts


@pytest.mark.parametrize("spec", ["arcface"], indirect=True)
async def test_a_race_is_run_again_where_its_winner_no_longer_runs_the_model(
    folder: Path, spec: ModelSpec, fast: SlowedOpener, slow: SlowedOpener, logs: list[Any]
) -> None:
    broken = replace(fast, fault=ModelFileError("No such operator."))
    for openers, backend in (((slow, fast), "fast"), ((slow, broken), "slow"), ((slow, fast), "fast")):
        loader = loader_of(folder, Candidates(openers=openers))
        model = await loader.load(spec)
        assert model.backend == backend
        await model.close(grace_s=5)
        loader.close()
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "backend that won before fails",
        "backend is left out",
    ]


@pytest.mark.parametrize("spec", ["arcface"], indirect=True)
@pytest.mark.parametrize("damaged", ["{", "[" * 100_000], ids=["cut", "deep"])
async def test_a_verdict_that_cannot_be_read_is_no_verdict(
    folder: Path, spec: ModelSpec, fast: SlowedOpener, slow: SlowedOpener, damaged: str
) -> None:
    for _ in range(2):
        loader = loader_of(folder, Candidates(openers=(slow, fast)))
        model = await loader.load(spec)
        assert model.backend == "fast"
        await model.close(grace_s=5)
        loader.close()
        (verdict,) = (folder / "prepared").glob("*.fastest.json")
        verdict.write_text(damaged)


async def test_a_model_the_first_runs_is_served_though_another_cannot(
    folder: Path, spec: ModelSpec, slow: SlowedOpener, logs: list[Any]
) -> None:
    other = SlowedOpener("other", fault=ModelFileError("No such operator."))
    loader = loader_of(folder, Candidates(openers=(slow, other)))
    model = await loader.load(spec)
    assert model.backend == "slow"
    assert [(line["event"], line["backend"]) for line in logs if line["log_level"] == "warning"] == [
        ("backend is left out", "other")
    ]
    await model.close(grace_s=5)
    loader.close()


async def test_a_backend_that_opens_a_model_and_cannot_run_it_is_left_out_and_closed(
    folder: Path, spec: ModelSpec, slow: SlowedOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SlowedOpener("other")

    def fail(_backend: SlowedBackend, _batch: Blob) -> tuple[Tensor, ...]:
        raise InferenceError("The model could not be run.")

    loader = loader_of(folder, Candidates(openers=(slow, other)))
    run = SlowedBackend.run
    monkeypatch.setattr(
        SlowedBackend, "run", lambda self, batch: fail(self, batch) if self in other.opened else run(self, batch)
    )
    model = await loader.load(spec)
    assert model.backend == "slow"
    assert other.opened
    assert all(backend.is_closed for backend in other.opened)
    await model.close(grace_s=5)
    loader.close()


async def test_a_single_candidate_is_not_measured(folder: Path, spec: ModelSpec, logs: list[Any]) -> None:
    loader = loader_of(folder, select_backend("openvino", openvino_precision="f32"), num_cores=1)
    model = await loader.load(spec)
    assert model.backend == "openvino-f32"
    assert not any(line["event"] == "backend chosen" for line in logs)
    item: Any = np.zeros((112, 112, 3), np.uint8)
    if spec.is_detector:
        item = (DetectorItem(canvas=np.zeros((64, 96, 3), np.uint8), score_threshold=0.5),)
    outcome = await model.batcher.submit([item], group="g", deadline=asyncio.get_running_loop().time() + 60)
    assert len(outcome.results) == 1
    await model.close(grace_s=5)
    loader.close()


async def test_auto_measures_and_says_what_it_found(folder: Path, spec: ModelSpec, logs: list[Any]) -> None:
    """With the real backends; which one wins is the machine's affair."""
    loader = loader_of(folder, select_backend("auto"))
    model = await loader.load(spec)
    (line,) = (line for line in logs if line["event"] == "backend chosen")
    assert set(line["run_ms"]) == {"onnxruntime-cpu", "openvino-f32"}
    assert line["backend"] == model.backend
    assert model.backend in line["run_ms"]
    await model.close(grace_s=5)
    loader.close()


async def test_a_slow_download_holds_up_no_model_that_is_here(folder: Path) -> None:
    """More of them than there are downloads at a time; how far each is can be followed."""
    here = stored(folder, arcface_spec(), arcface_model())
    body = bytes(2**20)
    with file_server({f"/away{index}.onnx": Answer(body, pause_s=20) for index in range(6)}) as server:
        away = [make_weights_spec(body, name=f"away{index}") for index in range(6)]
        weights = WeightsFolder(folder=folder, mirror=Mirror.parse(server.url), fetcher=Fetcher())
        options = LoadOptions(num_cores=1, det_batch_size=4, rec_batch_size=4, max_waiting=16)
        loader = ModelLoader(weights, select_backend("onnxruntime"), options, Metrics())
        progress = [LoadProgress() for _ in away]
        loads = [asyncio.create_task(loader.load(spec, each)) for spec, each in zip(away, progress, strict=True)]
        for _ in range(1000):
            if sum(each.fraction == 0.5 for each in progress) == 4:
                break
            await asyncio.sleep(0.01)
        assert sum(each.phase == "waiting" for each in progress) == 2
        model = await loader.load(here)
        assert not any(load.done() for load in loads)
        await model.close(grace_s=5)
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        loader.close()


async def test_a_backend_that_hangs_holds_up_no_other_model_for_ever(folder: Path) -> None:
    stuck = threading.Event()

    class Hanging(SlowedOpener):
        def open(self, model: bytes | Path, **choices: Any) -> Sequence[Backend]:
            """Hang, with the first model."""
            if not self.opened:
                self.opened.append(SlowedBackend(open_onnx_backends(model)[0], 0))
                stuck.wait(30)
            return super().open(model, **choices)

    first, second = stored(folder, arcface_spec(), arcface_model()), stored(folder, scrfd_spec(), scrfd_model())
    options = LoadOptions(num_cores=1, det_batch_size=4, rec_batch_size=4, max_waiting=16, load_timeout_s=1.5)
    loader = ModelLoader(WeightsFolder(folder=folder), Candidates(openers=(Hanging("odd"),)), options, Metrics())
    loads = [asyncio.create_task(loader.load(spec)) for spec in (first, second)]
    try:
        with pytest.raises(ModelStuckError):
            await loads[0]
        await (await loads[1]).close(grace_s=5)
        with pytest.raises(ModelStuckError):
            await loader.load(first)
    finally:
        stuck.set()
        loader.close()
