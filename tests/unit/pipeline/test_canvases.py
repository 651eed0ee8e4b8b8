"""The canvases that a picture is drawn on: as large as it needs, or as its graph or a GPU has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetface.metrics import Metrics
from jetface.models.loading import LoadOptions, ModelLoader
from jetface.models.weights import WeightsFolder
from jetface.pipeline.detector import Canvases, DetectorOptions
from jetface.runtimes.choose import OnnxOpener, Selection
from tests.support.engine_jobs import stored
from tests.support.tiny_onnx import scrfd_model, scrfd_spec

MAX_HW = (256, 256)


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[[tuple[int, int] | None], Any]:
    """Return a context manager: the size a graph is fixed to, None where it takes any -> the loaded model."""

    @asynccontextmanager
    async def loading(fixed_hw: tuple[int, int] | None) -> AsyncIterator[Any]:
        spec, weights = scrfd_spec(), scrfd_model()
        if fixed_hw:
            spec, weights = scrfd_spec(canvas_hw=fixed_hw), scrfd_model(canvas_hw=fixed_hw)
        options = LoadOptions(num_cores=1, det_batch_size=1, rec_batch_size=1, max_waiting=8)
        selection = Selection(onnx=OnnxOpener(("CPUExecutionProvider",)))
        loader = ModelLoader(WeightsFolder(folder=tmp_path), selection, options, Metrics())
        model = await loader.load(stored(tmp_path, spec, weights))
        yield model
        await model.batcher.close(drain=False)
        loader.close()

    return loading


@pytest.mark.parametrize(
    ("fixed_hw", "rectangular", "scale", "canvas_hw"),
    [
        (None, True, 2, (64, 64)),
        # A GPU has a few sizes; pictures lie on them as they do on a CPU's.
        (None, False, 2, MAX_HW),
        # Nothing is saved by filling less of it.
        ((128, 128), True, 4, (128, 128)),
    ],
)
async def test_a_small_picture_has_the_canvas_it_needs(
    loaded: Callable[..., Any],
    fixed_hw: tuple[int, int] | None,
    rectangular: bool,
    scale: float,
    canvas_hw: tuple[int, int],
) -> None:
    options = DetectorOptions(canvases_hw=(MAX_HW,), max_upscale=2, rectangular=rectangular)
    async with loaded(fixed_hw) as model:
        canvases = Canvases(model, options)
        canvases.draw(np.full((20, 32, 3), 200, np.uint8))
    (letterbox,), (canvas,) = canvases.letterboxes, canvases.images
    assert letterbox.scale == scale
    assert canvas.shape == (*canvas_hw, 3)


async def test_a_second_look_is_bounded_as_the_first(loaded: Callable[..., Any]) -> None:
    """Each enlarges at most so much; the small canvas may be full."""
    options = DetectorOptions(canvases_hw=(MAX_HW, (64, 64)), max_upscale=3)
    async with loaded(None) as model:
        canvases = Canvases(model, options)
        canvases.draw(np.full((32, 32, 3), 200, np.uint8))
    assert [letterbox.scale for letterbox in canvases.letterboxes] == [3, 2]
    assert [canvas.shape[:2] for canvas in canvases.images] == [(96, 96), (64, 64)]
