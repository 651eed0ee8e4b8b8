"""Models whose registry entry says `keeps_bf16` do: embeddings stay where they were, and people are told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jetface.registry import default_registry_dir, read_registry
from jetface.runtimes.openvino import has_bf16, load_runtime

NUM_PEOPLE = 100

MEAN_COSINE, LEAST_COSINE = 0.9995, 0.999
"""Between a face's embeddings in bfloat16 and in float32."""

KEEPS_BF16 = sorted(name for name, spec in read_registry([default_registry_dir()]).items() if spec.keeps_bf16)


@pytest.fixture(scope="module")
def crops(serve: Callable[..., Any], shared_faces: Path) -> list[bytes]:
    """Aligned faces, four a person, as PNG."""
    people = sorted(folder for folder in shared_faces.iterdir() if folder.is_dir())[:NUM_PEOPLE]
    pictures = [path.read_bytes() for folder in people for path in sorted(folder.iterdir())]
    with serve(rec_model="none") as service:
        results = service.extract(pictures, limit_faces=1, with_crop=True, with_embedding=False)
    return [cv2.imencode(".png", result.faces[0].crop)[1].tobytes() for result in results]


def embed(serve: Callable[..., Any], crops: list[bytes], name: str, precision: str) -> np.ndarray:
    """Return (N, L) unit embeddings."""
    with serve(rec_model=name, backend="openvino", openvino_precision=precision) as service:
        return np.stack([result.faces[0].embedding.vector for result in service.embed_crops(crops)])


@pytest.mark.skipif(not has_bf16(load_runtime()), reason="this CPU has no bf16")
@pytest.mark.parametrize("name", KEEPS_BF16)
def test_embeddings_in_bfloat16(serve: Callable[..., Any], crops: list[bytes], name: str) -> None:
    """By cosine to float32, and by who the most similar other picture shows."""
    exact, reduced = (embed(serve, crops, name, precision) for precision in ("f32", "auto"))
    cosines = np.einsum("nl,nl->n", exact, reduced)
    assert cosines.min() < 1
    assert cosines.mean() >= MEAN_COSINE
    assert cosines.min() >= LEAST_COSINE
    people = np.repeat(np.arange(NUM_PEOPLE), 4)
    is_right = []
    for embeddings in (exact, reduced):
        similarities = embeddings @ embeddings.T
        np.fill_diagonal(similarities, -1)
        is_right.append(people[similarities.argmax(axis=1)] == people)
    assert is_right[1].sum() >= is_right[0].sum()
