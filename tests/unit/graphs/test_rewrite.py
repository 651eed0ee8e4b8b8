"""Rewrites change the time a graph takes and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from jetface.graphs.parts import GraphParts, take_apart
from jetface.graphs.rewrite import EVERYWHERE, PRELU_IS_SLOW_FROM, choose_rewrites, split_prelu
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import arcface_model


def run(parts: GraphParts, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    model = parts.assemble()
    onnx.checker.check_model(model)
    return open_onnx_backends(model.SerializeToString(), max_batch_size=len(batch))[0].run(batch)[0]


def faces(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(-1, 1, (count, 3, 112, 112)).astype(np.float32)


@pytest.mark.parametrize("name", ["w600k_mbf_dequantized", "mobilefacenet128"])
def test_splitting_prelu_changes_no_embedding(name: str, shared_models: Path) -> None:
    """On real weights: largest difference 1e-6 of the largest value, cosine 1 within 1e-6; measured: none at all."""
    parts = take_apart((shared_models / f"{name}.onnx").read_bytes())
    batch = faces(3)
    before, after = run(parts, batch), run(split_prelu(parts), batch)
    assert np.abs(before - after).max() <= 1e-6 * np.abs(before).max()
    cosine = (before * after).sum(1) / (np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1))
    np.testing.assert_allclose(cosine, 1, atol=1e-6)
    assert not any(node.op_type == "PRelu" for node in split_prelu(parts).nodes)


def test_slopes_as_todays_exporter_writes_them_are_split() -> None:
    """PyTorch's `torch.onnx.export` gives them the rank of the map."""
    parts = take_apart(arcface_model())
    slopes = parts.constant("slopes")
    assert slopes is not None
    parts = parts.replace(new_weights={"slopes": slopes[None]})
    split = split_prelu(parts)
    assert not any(node.op_type == "PRelu" for node in split.nodes)
    np.testing.assert_allclose(run(split, faces(2)), run(parts, faces(2)), rtol=1e-6, atol=1e-6)


def test_slopes_of_any_sign_and_values_that_are_not_numbers_come_through() -> None:
    parts = take_apart(arcface_model(slopes=(0.25, -0.5, 1.5, 0.0)))
    batch = faces(2)
    np.testing.assert_allclose(run(split_prelu(parts), batch), run(parts, batch), rtol=1e-6, atol=1e-6)
    batch[1, 0, 5, 5] = np.nan
    with_nan = run(split_prelu(parts), batch)
    assert np.isfinite(with_nan[0]).all()
    assert np.isnan(with_nan[1]).any()


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 1, 1), (112, 112), (3, 112, 112)])
def test_slopes_that_are_not_one_a_channel_stay_as_they_are(shape: tuple[int, ...]) -> None:
    parts = take_apart(arcface_model())
    parts = parts.replace(new_weights={"slopes": np.full(shape, 0.5, np.float32)})
    assert split_prelu(parts).nodes == parts.nodes


def test_slopes_that_are_computed_stay_as_they_are() -> None:
    parts = take_apart(arcface_model())
    computed = helper.make_node("Neg", ["slopes"], ["computed"])
    prelu = helper.make_node("PRelu", ["maps", "computed"], ["bent"])
    changed = parts.replace(nodes=[parts.nodes[0], computed, prelu, *parts.nodes[2:]])
    assert split_prelu(changed).nodes == changed.nodes


def test_the_graph_that_is_rewritten_stays_as_it_was() -> None:
    parts = take_apart(arcface_model())
    before = parts.assemble().SerializeToString()
    split_prelu(parts)
    assert parts.assemble().SerializeToString() == before


def test_rewrites_are_applied_where_they_were_measured_to_win() -> None:
    cpu = "CPUExecutionProvider"
    new = [rewrite.name for rewrite in choose_rewrites(cpu, PRELU_IS_SLOW_FROM)]
    everywhere = ["fix_sizes"]
    assert new == [*everywhere, "merge_siblings", "widen_groups", "split_prelu"]
    assert [rewrite.name for rewrite in choose_rewrites(cpu, (1, 24, 4))] == [*everywhere, "merge_siblings"]
    openvino = [rewrite.name for rewrite in choose_rewrites("OpenVINO", PRELU_IS_SLOW_FROM)]
    assert openvino == [*everywhere, "merge_siblings", "widen_groups"]
    cuda = [rewrite.name for rewrite in choose_rewrites("CUDAExecutionProvider", (1, 31, 1))]
    assert cuda == [*everywhere, "merge_siblings"]
    assert choose_rewrites("TensorrtExecutionProvider", (1, 31, 1)) == EVERYWHERE
