"""The arcface family: unit vectors of any length, or an error; never a silent NaN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from jetface.domain import Blob, Tensor
from jetface.errors import InferenceError, ModelContractError
from jetface.heads.arcface import Arcface
from jetface.registry import InputSpec, ModelSpec
from tests.support.function_backend import FunctionBackend


def make_spec(length: int | None = 3, side_px: int = 112) -> ModelSpec:
    """Registry entry of a recognizer."""
    return ModelSpec.model_construct(
        name="tiny", license="none", source="a test", task="recognition", family="arcface", embedding_length=length,
        input=InputSpec(height_px=side_px, width_px=side_px, mean=127.5, std=127.5),
    )  # fmt: skip


def channel_means(batch: Blob) -> tuple[Tensor, ...]:
    """(N, 3): the mean of each channel."""
    return (batch.mean(axis=(2, 3)),)


def crops(count: int) -> list[np.ndarray]:
    """Crops whose blue grows with their position."""
    return [np.full((112, 112, 3), (index * 10, 200, 255), np.uint8) for index in range(count)]


def test_each_crop_gets_its_own_unit_vector() -> None:
    """In order, over several runs, RGB, with the length before normalisation."""
    backend = FunctionBackend(channel_means)
    embeddings = Arcface(make_spec()).run(backend, crops(10))
    assert [len(batch) for batch in backend.batches] == [4, 4, 2]
    for index, embedding in enumerate(embeddings):
        raw = (np.array([255, 200, index * 10]) - 127.5) / 127.5
        assert embedding.norm == pytest.approx(np.linalg.norm(raw), rel=1e-5)
        np.testing.assert_allclose(embedding.vector, raw / np.linalg.norm(raw), rtol=1e-5, atol=1e-6)
        assert embedding.vector.dtype == np.float32


def test_no_crop_no_run() -> None:
    """An empty list is answered without the backend."""
    backend = FunctionBackend(channel_means)
    assert Arcface(make_spec()).run(backend, []) == []
    assert not backend.batches


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_output_without_direction_is_an_error(value: float) -> None:
    """Zero and NaN are not embeddings."""

    def graph(batch: Blob) -> tuple[Tensor, ...]:
        rows = np.ones((len(batch), 3), np.float32)
        rows[-1] = value
        return (rows,)

    with pytest.raises(InferenceError, match=r"zero|not finite"):
        Arcface(make_spec()).run(FunctionBackend(graph), crops(3))


@pytest.mark.parametrize("shape", [(1, 3), (2, 4), (6, 1)])
def test_an_output_of_another_shape_is_an_error(shape: tuple[int, int]) -> None:
    """Two crops are answered by two rows of the entry's length, or not at all."""
    backend = FunctionBackend(lambda _: (np.ones(shape, np.float32),))
    with pytest.raises(InferenceError, match="answered 2 pictures"):
        Arcface(make_spec()).run(backend, crops(2))


def test_trailing_axes_of_length_one_are_dropped() -> None:
    """Some exports keep the pooled height and width."""
    backend = FunctionBackend(lambda batch: (np.ones((len(batch), 3, 1, 1), np.float32),))
    embedding = Arcface.probe(make_spec(), backend).run(backend, crops(1))[0]
    assert embedding.vector.shape == (3,)


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        (lambda _: (np.ones((1, 4), np.float32),), r"\[1, 4\]"),
        (lambda _: (np.ones((3, 1), np.float32),), r"\[3, 1\]"),
        (lambda _: (np.ones((1, 3), np.float32), np.ones((1, 3), np.float32)), r"\[1, 3\], \[1, 3\]"),
        (lambda _: (), "found"),
    ],
    ids=["longer", "three-rows", "two-outputs", "none"],
)
def test_a_graph_that_is_not_its_entry_is_refused(graph: Callable[[Blob], tuple[Tensor, ...]], found: str) -> None:
    """The message says what the entry wants and what was found."""
    with pytest.raises(ModelContractError, match=found):
        Arcface.probe(make_spec(), FunctionBackend(graph))


@pytest.mark.parametrize(("length", "side_px"), [(None, 112), (3, 128)])
def test_an_entry_that_is_not_arcface_is_refused(length: int | None, side_px: int) -> None:
    """Crops are 112x112, and a length is needed."""
    with pytest.raises(ModelContractError):
        Arcface(make_spec(length, side_px))
