"""Loading for a GPU: all of it but the GPU, on the CPU provider and a CUDA of host memory."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetface.errors import InferenceError
from jetface.heads.canvases import DetectorItem
from jetface.metrics import Metrics
from jetface.models.loading import LoadOptions, ModelLoader
from jetface.models.weights import WeightsFolder
from jetface.registry import ModelSpec
from jetface.runtimes.choose import OnnxOpener, Selection
from jetface.runtimes.cuda import CudaError
from jetface.runtimes.gpu_buffers import block_of
from jetface.runtimes.onnx_cuda import CudaSetup
from tests.support.fake_cuda import FakeCuda
from tests.support.tiny_onnx import arcface_model, arcface_spec, scrfd_model, scrfd_spec

CANVASES_HW = ((64, 96), (32, 32))
BUCKETS = 3
"""1, 2 and 4."""
INPUT_AND_OUTPUTS = 2
"""Buffers of a bucket."""


class ThreadedCuda(FakeCuda):
    """Notes on which threads buffers are allocated; has no room for threads of the name `refused`."""

    def __init__(self) -> None:
        super().__init__(is_eager=True)
        self.threads: set[str] = set()
        self.refused: str | None = None
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def malloc(self, num_bytes: int) -> int:
        name = threading.current_thread().name
        self.threads.add(name)
        if self.refused and name.startswith(self.refused):
            raise CudaError("cudaMalloc: cudaErrorMemoryAllocation, out of memory")
        return super().malloc(num_bytes)

    def stream_synchronize(self, stream: int) -> None:
        self.has_begun.set()
        assert self.may_go_on.wait(30)
        super().stream_synchronize(stream)


@pytest.fixture
def cuda() -> ThreadedCuda:
    return ThreadedCuda()


@pytest.fixture(params=["arcface", "scrfd"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> ModelSpec:
    made = (arcface_spec(), arcface_model()) if request.param == "arcface" else (scrfd_spec(), scrfd_model())
    (tmp_path / made[0].file_name).write_bytes(made[1])
    return made[0].model_copy(update={"sha256": hashlib.sha256(made[1]).hexdigest()})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def loader(tmp_path: Path, cuda: ThreadedCuda, metrics: Metrics) -> Iterator[ModelLoader]:
    opener = OnnxOpener(("CUDAExecutionProvider", "CPUExecutionProvider"), cuda=CudaSetup(cuda=cuda, device="cpu"))
    options = LoadOptions(num_cores=2, det_batch_size=4, rec_batch_size=4, max_waiting=16, canvases_hw=CANVASES_HW)
    opened = ModelLoader(WeightsFolder(folder=tmp_path), Selection(onnx=opener), options, metrics)
    yield opened
    opened.close()


def items_of(spec: ModelSpec) -> list[Any]:
    if spec.task != "detection":
        return [np.full((112, 112, 3), value, np.uint8) for value in range(3)]
    return [
        tuple(DetectorItem(canvas=np.zeros((*hw, 3), np.uint8), score_threshold=0.5) for hw in CANVASES_HW)
        for _ in range(3)
    ]


async def test_every_bucket_is_warm_before_the_model_serves(
    loader: ModelLoader, cuda: ThreadedCuda, spec: ModelSpec
) -> None:
    model = await loader.load(spec)
    assert (model.backend, model.cpu_nodes) == ("onnxruntime-cuda", ())
    shapes = 2 if spec.is_detector else 1
    # The probe is a shape of its own for a detector, whose bucket of 1 comes on top.
    assert cuda.held["device"] == (BUCKETS * shapes + (spec.is_detector)) * INPUT_AND_OUTPUTS
    assert f"{spec.name}-0" in cuda.threads
    mallocs = cuda.calls["malloc"]
    outcome = await model.batcher.submit(items_of(spec), group="g", deadline=asyncio.get_running_loop().time() + 60)
    assert len(outcome.results) == 3
    assert cuda.calls["malloc"] == mallocs
    await model.close(grace_s=10)
    assert not cuda.held


async def test_a_lane_takes_its_next_batch_while_the_event_loop_is_held_up(
    loader: ModelLoader, cuda: ThreadedCuda, spec: ModelSpec, metrics: Metrics
) -> None:
    """The GPU waits for nobody between two runs; callers who left during the first cost nothing."""
    model = await loader.load(spec)
    assert model.batcher.max_batch == 4
    cuda.has_begun.clear()
    cuda.may_go_on.clear()
    deadline = asyncio.get_running_loop().time() + 60
    item = items_of(spec)[0]
    first = asyncio.create_task(model.batcher.submit([item], group="first", deadline=deadline))
    assert await asyncio.to_thread(cuda.has_begun.wait, 30)
    gone, stays = (asyncio.create_task(model.batcher.submit([item] * 4, group=1, deadline=deadline)) for _ in range(2))
    while model.batcher.waiting < 8:  # noqa: ASYNC110 - they are on their way
        await asyncio.sleep(0.001)
    gone.cancel()
    await asyncio.wait([gone])
    dropped = {"model": spec.name, "reason": "cancelled"}
    assert metrics.registry.get_sample_value("jetface_dropped_items_total", dropped) == 4
    cuda.may_go_on.set()
    held_up_until = time.monotonic() + 30
    while model.batcher.waiting and time.monotonic() < held_up_until:
        time.sleep(0.001)  # noqa: ASYNC251 - the loop is held up on purpose
    assert model.batcher.waiting == 0
    assert len((await first).results) == 1
    assert len((await stays).results) == 4
    await model.close(grace_s=10)


async def test_canvases_of_a_detector_are_pinned_and_go_up_from_where_they_are(
    loader: ModelLoader, cuda: ThreadedCuda, spec: ModelSpec, metrics: Metrics
) -> None:
    model = await loader.load(spec)
    pinned = metrics.registry.get_sample_value("jetface_pinned_bytes", {"model": spec.name})
    assert metrics.registry.get_sample_value("jetface_shared_buckets", {"model": spec.name}) == 0
    canvas = model.items.new_item((*CANVASES_HW[0], 3))
    if spec.task != "detection":
        assert (pinned, block_of(canvas)) == (0, None)
    else:
        assert pinned == model.items.num_bytes >= 64 * canvas.size
        assert block_of(canvas) is not None
        canvas[:] = 255
        plain = canvas.copy()
        item, same = ((DetectorItem(canvas=each, score_threshold=0.1),) for each in (canvas, plain))
        deadline = asyncio.get_running_loop().time() + 60
        outcome = await model.batcher.submit([item, same], group="g", deadline=deadline)
        ((found,), (expected,)) = outcome.results
        np.testing.assert_array_equal(found.boxes, expected.boxes)
    await model.close(grace_s=10)
    assert cuda.held == ({"host": 1} if spec.is_detector else {})
    assert canvas.size
    del canvas
    if spec.is_detector:
        del item, outcome
    gc.collect()
    assert not cuda.held


async def test_a_model_that_finds_no_room_for_its_largest_bucket_is_not_served(
    loader: ModelLoader, cuda: ThreadedCuda, spec: ModelSpec
) -> None:
    cuda.refused = spec.name
    with pytest.raises(InferenceError):
        await loader.load(spec)
    assert not cuda.held
