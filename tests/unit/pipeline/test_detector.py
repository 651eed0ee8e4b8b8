"""Canvases on their way to a GPU: drawn in memory it reads, and nowhere else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from jetface.metrics import Metrics
from jetface.models.loading import LoadOptions, ModelLoader
from jetface.models.store import ModelStore
from jetface.models.weights import WeightsFolder
from jetface.pipeline.detector import Detector, DetectorOptions
from jetface.pipeline.pictures import WorkPool
from jetface.runtimes.choose import OnnxOpener, Selection
from jetface.runtimes.onnx_cuda import CudaSetup
from tests.support.engine_jobs import stored
from tests.support.fake_cuda import FakeCuda
from tests.support.tiny_onnx import scrfd_model, scrfd_spec

CANVAS_HW = (96, 128)


class WatchedCuda(FakeCuda):
    """Notes from where is copied to the device."""

    def __init__(self) -> None:
        super().__init__(is_eager=True)
        self.allocated: dict[int, int] = {}
        self.sources: list[int] = []

    def host_alloc(self, num_bytes: int, *, is_mapped: bool) -> int:
        address = super().host_alloc(num_bytes, is_mapped=is_mapped)
        self.allocated[num_bytes] = address
        return address

    def copy_to_device(self, device_address: int, host_address: int, num_bytes: int, stream: int) -> None:
        self.sources.append(host_address)
        super().copy_to_device(device_address, host_address, num_bytes, stream)


@pytest.mark.parametrize("is_drawn_before", [False, True])
async def test_a_canvas_goes_up_from_where_it_was_drawn(tmp_path: Path, is_drawn_before: bool) -> None:
    """And its place is free for the next picture once it is answered, though the request goes on."""
    spec, cuda, metrics = stored(tmp_path, scrfd_spec(), scrfd_model()), WatchedCuda(), Metrics()
    opener = OnnxOpener(("CUDAExecutionProvider", "CPUExecutionProvider"), cuda=CudaSetup(cuda=cuda, device="cpu"))
    options = LoadOptions(
        num_cores=1, det_batch_size=2, rec_batch_size=2, max_waiting=8, canvases_hw=(CANVAS_HW,), most_canvases=4
    )
    loader = ModelLoader(WeightsFolder(folder=tmp_path), Selection(onnx=opener), options, metrics)
    store, pool = ModelStore({spec.name: spec}, loader.load, metrics), WorkPool(1)
    detector = Detector(store, spec.name, DetectorOptions(canvases_hw=(CANVAS_HW,), rectangular=False), pool)
    model = await store.get(spec.name)
    first_block = cuda.allocated[model.items.num_bytes]
    cuda.sources.clear()
    image = np.random.default_rng(0).integers(0, 256, (192, 128, 3), np.uint8)
    kept = []
    for _ in range(10):
        canvases = detector.canvases() if is_drawn_before else None
        if canvases is not None:
            canvases.draw(image)
        deadline = asyncio.get_running_loop().time() + 60
        outcome = await detector.detect(image, canvases, score_threshold=0.9, group="g", deadline=deadline)
        assert outcome.scale == 0.5
        kept.append(canvases)
    assert len(cuda.sources) == 10
    assert all(0 <= source - first_block < model.items.num_bytes for source in cuda.sources)
    await store.close(grace_s=10)
    loader.close()
    pool.close()
    assert not cuda.held
