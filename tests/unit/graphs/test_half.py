"""Graphs cast to FP16: halves inside, float32 at both ends, and as much in FP32 as is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from jetface.graphs.half import ALL_HALF, FULL_SUMS, POLICIES, HalfPolicy, policy_of, round_as_half, to_half, widen
from jetface.graphs.parts import GraphError, GraphParts, attribute, take_apart
from jetface.graphs.prepare import PreparedFiles, prepare_graph
from jetface.registry import default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import arcface_model, arcface_spec, model, scrfd_model, scrfd_spec

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def run(parts: GraphParts, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    return open_onnx_backends(parts.assemble().SerializeToString(), max_batch_size=2**20)[0].run(batch)


def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, shape)


def chain(*nodes: onnx.NodeProto, **weights: NDArray[np.float32]) -> GraphParts:
    """Nodes from `x` to `y`, both (N,)."""
    return take_apart(model(list(nodes), weights, [value("x", "N")], [value("y", "N")]))


def operators(parts: GraphParts, element_type: int) -> set[str]:
    """Operators whose answer is of a type."""
    types = parts.infer_types()
    return {node.op_type for node in parts.nodes if types[node.output[0]] == element_type}


TINY = {"arcface": (arcface_model(), (2, 3, 112, 112)), "scrfd": (scrfd_model(batch="N"), (1, 3, 64, 96))}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("family", TINY)
def test_ends_stay_float32_and_the_graph_is_sound(family: str, policy: HalfPolicy) -> None:
    serialized, shape = TINY[family]
    full = take_apart(serialized)
    half = to_half(full, policy)
    onnx.checker.check_model(half.assemble(), full_check=True)
    assert [end.name for end in half.inputs + half.outputs] == [end.name for end in full.inputs + full.outputs]
    assert {end.type.tensor_type.elem_type for end in half.inputs + half.outputs} == {FLOAT}
    batch = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for ours, original in zip(run(round_as_half(half), batch), run(full, batch), strict=True):
        assert not np.array_equal(ours, original)
        np.testing.assert_allclose(ours, original, rtol=0.01, atol=0.02)


def test_what_is_named_stays_in_fp32() -> None:
    half = to_half(take_apart(scrfd_model()))
    assert "Resize" in operators(half, FLOAT)
    assert {"Conv", "PRelu", "Add", "Sigmoid"} <= operators(half, HALF)
    mixed = to_half(take_apart(scrfd_model()), FULL_SUMS)
    assert {"Resize", "Add", "Sigmoid"} <= operators(mixed, FLOAT)
    assert {"Conv", "PRelu"} <= operators(mixed, HALF)


def test_nothing_is_cast_to_half_only_to_be_cast_back() -> None:
    """4099 is no half: it is there for the last addition, which is FP32 as the one that made it."""
    parts = chain(
        helper.make_node("Add", ["x", "one"], ["a"]),
        helper.make_node("Add", ["a", "one"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Add", ["c", "a"], ["y"]),
        one=np.ones(1, np.float32),
    )
    mixed = to_half(parts, FULL_SUMS)
    casts = [attribute(node, "to") for node in mixed.nodes if node.op_type == "Cast"]
    assert sorted(casts) == [FLOAT, HALF]
    assert run(round_as_half(mixed), np.array([4098.0], np.float32))[0] == 4099 + 4100


def test_a_weight_read_by_both_kinds_is_rounded_for_one_of_them() -> None:
    third = np.array([1 / 3], np.float32)
    parts = chain(
        helper.make_node("PRelu", ["x", "third"], ["a"]),
        helper.make_node("Add", ["a", "third"], ["y"]),
        third=third,
    )
    mixed = to_half(parts, FULL_SUMS)
    assert run(round_as_half(mixed), np.zeros(1, np.float32))[0] == third
    (answer,) = run(round_as_half(to_half(parts)), np.zeros(1, np.float32))
    assert answer == third.astype(np.float16)


def test_weights_beyond_half_are_the_largest_half_and_tiny_ones_are_nothing() -> None:
    parts = chain(helper.make_node("Mul", ["x", "weight"], ["y"]), weight=np.array([1e30, -1e30, 1e-30], np.float32))
    (weight,) = (onnx.numpy_helper.to_array(weight) for weight in to_half(parts).weights.values())
    assert weight.dtype == np.float16
    np.testing.assert_array_equal(weight, np.array([65504, -65504, 0], np.float16))


def test_weights_stored_in_half_are_widened_first(tmp_path: Path) -> None:
    """The starter models are: without it, their convolutions would be fed from a cast each."""
    registry_dir = default_registry_dir()
    spec = read_registry([registry_dir])["starter_rec"]
    stored = take_apart((registry_dir / spec.file_name).read_bytes())
    assert "Cast" in {node.op_type for node in stored.nodes}
    assert "Cast" not in {node.op_type for node in widen(stored).nodes}
    graph = prepare_graph(registry_dir / spec.file_name, spec, precision="fp16", cache=PreparedFiles(tmp_path))
    assert isinstance(graph.model, Path)
    half = take_apart(graph.model.read_bytes())
    assert [node.op_type for node in half.nodes].count("Cast") == 2
    assert graph.model.stat().st_size < 1.05 * (registry_dir / spec.file_name).stat().st_size


def test_a_graph_in_half_already_comes_back_as_it_is() -> None:
    half = to_half(take_apart(arcface_model()))
    assert to_half(half) is half


def test_a_graph_that_cannot_be_cast_is_an_error_of_ours() -> None:
    """Two nodes that wait for each other, for example."""
    parts = chain(
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    )
    with pytest.raises(GraphError, match="cannot be cast to FP16"):
        to_half(parts)


def test_the_entry_says_which_policy(tmp_path: Path) -> None:
    spec = scrfd_spec()
    assert policy_of(spec) is ALL_HALF
    careful = spec.model_copy(update={"fp32_sums": True})
    assert policy_of(careful) is FULL_SUMS
    path = tmp_path / "model.onnx"
    path.write_bytes(scrfd_model())
    cache = PreparedFiles(tmp_path / "prepared")
    graphs = {
        prepare_graph(path, entry, precision=precision, pixels=pixels, cache=cache).model
        for entry in (spec, careful)
        for precision in ("fp32", "fp16")
        for pixels in (False, True)
    }
    # What is kept in FP32 makes no difference to a graph that is FP32 altogether.
    assert len(graphs) == 6


def test_kept_graphs_say_what_they_take(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(arcface_model())
    cache = PreparedFiles(tmp_path / "prepared")
    first = prepare_graph(path, arcface_spec(), precision="fp16", pixels=True, cache=cache)
    assert (first.takes_pixels, first.input_hw) == (True, (112, 112))
    assert prepare_graph(path, arcface_spec(), precision="fp16", pixels=True, cache=cache) == first
    plain = prepare_graph(path, arcface_spec(), cache=cache)
    assert (plain.takes_pixels, plain.input_hw) == (False, (112, 112))


class TestRounding:
    """The stand-in for half arithmetic, on a CPU that has none."""

    identity = to_half(chain(helper.make_node("Abs", ["x"], ["y"])))

    def rounded(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return run(round_as_half(self.identity), values)[0]

    def test_every_half_stays_what_it_is(self) -> None:
        halves = np.arange(2**15, dtype=np.uint16).view(np.float16).astype(np.float32)
        halves = halves[np.isfinite(halves)]
        np.testing.assert_array_equal(self.rounded(halves), halves)

    @given(st.lists(st.floats(2.0**-14, 1e9, width=32), min_size=1))
    def test_other_numbers_become_the_nearest_half(self, numbers: list[float]) -> None:
        values = np.array(numbers, np.float32)
        with np.errstate(over="ignore"):
            expected = values.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(self.rounded(values), expected)

    @given(st.lists(st.floats(0, 2.0**-14, width=32), min_size=1))
    def test_small_ones_become_one_of_the_two_nearest(self, numbers: list[float]) -> None:
        values = np.array(numbers, np.float32)
        rounded = self.rounded(values)
        np.testing.assert_array_equal(rounded, rounded.astype(np.float16))
        assert (np.abs(rounded - values) < 2.0**-24).all()

    def test_what_overflows_in_half_is_not_finite(self) -> None:
        parts = chain(
            helper.make_node("Mul", ["x", "thousand"], ["a"]),
            helper.make_node("Mul", ["a", "thousandth"], ["y"]),
            thousand=np.full(1, 1000, np.float32),
            thousandth=np.full(1, 0.001, np.float32),
        )
        answers = run(round_as_half(to_half(parts)), np.array([60, 70, -70], np.float32))[0]
        assert np.isfinite(answers).tolist() == [True, False, False]
        # The CPU provider computes in FP32 what is meant for half: it would have passed.
        assert np.isfinite(run(to_half(parts), np.array([60, 70, -70], np.float32))[0]).all()
