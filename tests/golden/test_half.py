"""Recognizers cast to FP16 tell the same people apart: rank-1 identification, with halves emulated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetface.graphs.half import round_as_half, to_half
from jetface.graphs.parts import take_apart
from jetface.graphs.prepare import prepare_graph
from jetface.judging.agreement import FP16, Trial
from jetface.registry import ModelSpec, default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.portraits import crop_of, middle_face

NUM_PEOPLE, NUM_EACH = 30, 4


@pytest.fixture(scope="module")
def crops(serve: Callable[..., Any], shared_faces: Path) -> list[np.ndarray]:
    """Aligned faces, four a person."""
    people = sorted(folder for folder in shared_faces.iterdir() if folder.is_dir())[:NUM_PEOPLE]
    pictures = [path.read_bytes() for folder in people for path in sorted(folder.iterdir())]
    with serve(rec_model="none") as service:
        results = service.extract(pictures, with_crop=True, with_embedding=False)
    return [crop_of(middle_face(result.faces, result.image_hw)) for result in results]


def embed(model: bytes, spec: ModelSpec, crops: list[np.ndarray]) -> np.ndarray:
    """Return (N, L) unit embeddings."""
    (backend,) = open_onnx_backends(model)
    embeddings: np.ndarray = Trial(spec, lambda: crops).answers(backend)
    return embeddings


def rank_1(embeddings: np.ndarray) -> np.ndarray:
    """Return (N,) whether the most similar other picture shows the same person."""
    people = np.repeat(np.arange(NUM_PEOPLE), NUM_EACH)
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -1)
    return np.asarray(people[cosines.argmax(axis=1)] == people)


@pytest.mark.parametrize("name", ["w600k_mbf_dequantized", "mobilefacenet128", "starter_rec"])
def test_whom_the_most_similar_picture_shows_stays(name: str, crops: list[np.ndarray], shared_models: Path) -> None:
    spec = read_registry([default_registry_dir()])[name]
    folder = default_registry_dir() if name.startswith("starter") else shared_models
    graph = prepare_graph(folder / spec.file_name, spec)
    assert isinstance(graph.model, bytes)
    half = round_as_half(to_half(take_apart(graph.model))).assemble().SerializeToString()
    exact, rounded = (embed(model, spec, crops) for model in (graph.model, half))
    assert not np.array_equal(exact, rounded)
    assert Trial(spec, lambda: crops).compare(exact, rounded).fault(FP16) is None
    np.testing.assert_array_equal(rank_1(rounded), rank_1(exact))
