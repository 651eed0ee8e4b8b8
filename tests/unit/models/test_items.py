"""Where canvases are made: in memory the GPU reads, before and after an engine takes over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from jetface.batching.lane import Lane
from jetface.engines.job import EngineJob
from jetface.engines.takeover import EngineLane
from jetface.heads.canvases import DetectorItem
from jetface.models.items import ItemMemory
from jetface.runtimes.gpu_buffers import block_of
from jetface.runtimes.onnx import open_onnx_backends
from jetface.runtimes.onnx_cuda import CudaSetup, open_cuda_backend
from jetface.runtimes.tensorrt import Relay, Toolkit
from jetface.runtimes.tensorrt_build import TensorrtKit
from tests.support.engine_jobs import jobs_of, stored, tiny_job
from tests.support.fake_cuda import FakeCuda
from tests.support.stand_in_trt import StandInTrt, make_plan
from tests.support.tiny_onnx import arcface_model, scrfd_model, scrfd_spec

SHAPE = (96, 96, 3)


def lane_of(job: EngineJob, cuda: FakeCuda, items: ItemMemory) -> Lane[Any, Any]:
    """Return the lane of a job's graph, run on a TensorRT and a CUDA of our own."""
    trt = StandInTrt(cuda)
    kit = TensorrtKit(toolkit=Toolkit(trt, "stand-in", keeps_timings=False, relay=Relay(trt)), cuda=cuda)
    shapes = [(profile.least, profile.usual, profile.most) for profile in job.recipe.profiles]
    return EngineLane(job, kit, make_plan(job.graph.read_bytes(), shapes), items).lane()


def backend_on(cuda: FakeCuda) -> Any:
    return open_cuda_backend(arcface_model(), setup=CudaSetup(cuda=cuda, device="cpu"))


def test_without_a_gpu_an_item_is_made_as_any_array_is() -> None:
    items = ItemMemory()
    (backend,) = open_onnx_backends(arcface_model())
    items.pin("tiny", backend, [SHAPE])
    item = items.new_item(SHAPE)
    assert (item.shape, item.dtype, block_of(item), items.num_bytes) == (SHAPE, np.dtype(np.uint8), None, 0)
    items.close()


def test_on_a_gpu_items_are_pinned_up_to_a_bound_and_made_all_the_same_beyond_it() -> None:
    cuda, items = FakeCuda(is_eager=True), ItemMemory()
    backend = backend_on(cuda)
    with capture_logs() as logs:
        items.pin("tiny", backend, [(32, 32, 3), SHAPE])
    (entry,) = logs
    assert (entry["canvases"], entry["pinned_bytes"]) == (64, items.num_bytes)
    assert items.num_bytes >= 64 * np.prod(SHAPE)
    made = [items.new_item(SHAPE) for _ in range(70)]
    assert [block_of(item) is not None for item in made] == [True] * 64 + [False] * 6
    assert {item.shape for item in made} == {SHAPE}
    items.pin("tiny", backend, [SHAPE])
    assert cuda.calls["host_alloc"] == 1
    items.close()
    items.close()
    assert block_of(items.new_item(SHAPE)) is None
    backend.close()
    made.clear()
    assert not cuda.held


def test_as_many_items_are_pinned_as_are_made_at_a_time() -> None:
    cuda, items = FakeCuda(is_eager=True), ItemMemory(3)
    backend = backend_on(cuda)
    items.pin("tiny", backend, [SHAPE])
    made = [items.new_item(SHAPE) for _ in range(5)]
    assert [block_of(item) is not None for item in made] == [True] * 3 + [False] * 2
    items.close()
    backend.close()


def test_large_canvases_are_fewer() -> None:
    """What is pinned no other program has."""
    cuda, items = FakeCuda(is_eager=True), ItemMemory()
    backend = backend_on(cuda)
    items.pin("tiny", backend, [(4096, 4096, 3)])
    assert 4096 * 4096 * 3 <= items.num_bytes <= 256 * 2**20
    items.close()
    backend.close()


def test_nothing_is_pinned_for_no_shape_and_where_there_is_no_room() -> None:
    cuda, items = FakeCuda(is_eager=True), ItemMemory()
    backend = backend_on(cuda)
    items.pin("tiny", backend, [])
    cuda.failing = {"host_alloc"}
    items.pin("tiny", backend, [SHAPE])
    assert items.num_bytes == 0
    assert items.new_item(SHAPE).shape == SHAPE
    backend.close()
    assert not cuda.held


@pytest.mark.parametrize("has_pool", [False, True])
def test_an_engine_takes_canvases_of_what_it_replaced_and_pins_where_nothing_was(
    tmp_path: Path, has_pool: bool
) -> None:
    cuda, items = FakeCuda(is_eager=True), ItemMemory()
    former = backend_on(cuda)
    if has_pool:
        items.pin("tiny", former, [SHAPE])
    canvas = items.new_item(SHAPE)
    canvas[:] = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    lane = lane_of(jobs_of(tmp_path).job(stored(tmp_path, scrfd_spec(), scrfd_model())), cuda, items)
    assert lane.start is not None
    assert lane.close is not None
    lane.start()
    former.close()
    assert items.num_bytes >= 64 * np.prod(SHAPE)
    again = items.new_item(SHAPE)
    again[:] = canvas
    (before,), (after,) = lane.run(
        [
            (DetectorItem(canvas=each, score_threshold=0.1),) for each in (canvas, again)
        ]  # one pinned, if there was a pool
    )
    assert len(before) > 0
    np.testing.assert_array_equal(before.boxes, after.boxes)
    items.close()
    lane.close()
    assert (canvas == again).all()
    del canvas, again
    assert not cuda.held


def test_an_engine_of_a_recognizer_pins_nothing(tmp_path: Path) -> None:
    """Crops are small, and copied while others are aligned."""
    cuda, items = FakeCuda(is_eager=True), ItemMemory()
    lane = lane_of(tiny_job(tmp_path), cuda, items)
    assert lane.start is not None
    assert lane.close is not None
    lane.start()
    assert items.num_bytes == 0
    lane.close()
    assert not cuda.held
