"""What a head returns is its caller's to keep, though the backend writes to its answers again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jetface.graphs.prepare import prepare_graph
from jetface.heads.canvases import DetectorItem
from jetface.heads.families import FAMILIES
from jetface.registry import InputSpec, ModelSpec
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.forgetful import Forgetful
from tests.support.tiny_onnx import arcface_model, arcface_spec, scrfd_model, scrfd_spec, yunet_model

CANVAS_HW = (64, 96)
MAX_BATCH = 2
NUM_ITEMS = 5
"""More than two runs."""

YUNET = ModelSpec.model_construct(
    name="tiny_yunet", task="detection", family="yunet", license="none", source="a test", embedding_length=None,
    input=InputSpec(height_px=64, width_px=96, mean=0.0, std=1.0, channel_order="bgr"),
)  # fmt: skip

CASES = {
    "arcface": (arcface_spec(), arcface_model()),
    "scrfd": (scrfd_spec(), scrfd_model()),
    "yunet": (YUNET, yunet_model()),
}


def arrays_in(result: Any) -> Iterator[NDArray[Any]]:
    """Yield every array of a result, whatever it is made of."""
    if isinstance(result, np.ndarray):
        yield result
    elif isinstance(result, list | tuple):
        for part in result:
            yield from arrays_in(part)
    elif dataclasses.is_dataclass(result):
        for field in dataclasses.fields(result):
            yield from arrays_in(getattr(result, field.name))


def items_of(spec: ModelSpec, seed: int) -> list[Any]:
    hw = CANVAS_HW if spec.is_detector else (112, 112)
    pictures = np.random.default_rng(seed).integers(0, 256, (NUM_ITEMS, *hw, 3), np.uint8)
    if spec.is_detector:
        return [(DetectorItem(canvas=picture, score_threshold=0.3),) for picture in pictures]
    return list(pictures)


@pytest.mark.parametrize("name", sorted(CASES))
def test_results_stay_when_other_runs_follow(name: str, tmp_path: Path) -> None:
    spec, serialized = CASES[name]
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(serialized)
    graph = prepare_graph(path, spec)
    (plain,) = open_onnx_backends(graph.model, max_batch_size=MAX_BATCH)
    backend = Forgetful(plain)
    head = FAMILIES[spec.family].probe(spec, backend, CANVAS_HW if spec.is_detector else None).head
    expected = [array.copy() for array in arrays_in(head.run(plain, items_of(spec, 0)))]
    results = head.run(backend, items_of(spec, 0))
    head.run(backend, items_of(spec, 1))
    backend.close()
    found = list(arrays_in(results))
    assert any(array.size for array in found)
    for array, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, wanted)
