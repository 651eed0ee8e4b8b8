"""Flattening to constant lengths: nothing asks for the batch as the graph runs, and every answer is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from jetface.graphs.parts import GraphParts, take_apart
from jetface.graphs.prepare import prepare_graph
from jetface.graphs.rewrite import FIX_SIZES, fix_sizes
from jetface.registry import default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import model

make = helper.make_node


def graph(
    nodes: Sequence[onnx.NodeProto], *, shape: Sequence[int | str] = ("N", 3, 8, 8), **weights: Any
) -> GraphParts:
    """A graph from `x` to `y`."""
    tensors = {name: np.array(value, np.int64) for name, value in weights.items()}
    value = helper.make_tensor_value_info
    return take_apart(
        model(nodes, tensors, [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, None)])
    )


def view(*target: str) -> list[onnx.NodeProto]:
    """Nodes that reshape `x` to its batch and what follows."""
    return [
        make("Shape", ["x"], ["shape"]), make("Gather", ["shape", "zero"], ["n"]),
        make("Unsqueeze", ["n"], ["batch"], axes=[0]), make("Concat", ["batch", *target], ["lengths"], axis=0),
        make("Reshape", ["x", "lengths"], ["y"]),
    ]  # fmt: skip


def answers(serialized: bytes | Path, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    return open_onnx_backends(serialized, max_batch_size=len(batch))[0].run(batch)[0]


def target_of(parts: GraphParts) -> list[int]:
    (node,) = parts.nodes
    lengths = parts.constant(node.input[1])
    assert lengths is not None
    return [int(length) for length in lengths]


@pytest.mark.parametrize("name", ["fasnet_2.7", "fasnet_4.0"])
def test_a_real_model_asks_for_no_shape_and_answers_the_same(name: str, shared_models: Path) -> None:
    spec = read_registry([default_registry_dir()])[name]
    path = shared_models / f"{name}.onnx"
    before, after = prepare_graph(path, spec), prepare_graph(path, spec, rewrites=[FIX_SIZES])
    assert after.rewrites == ("fix_sizes",)
    assert isinstance(after.model, bytes)
    parts = take_apart(after.model)
    types = parts.infer_types()
    assert {types[output] for node in parts.nodes for output in node.output if output in types} == {TensorProto.FLOAT}
    assert "Shape" not in {node.op_type for node in parts.nodes}
    for count in (1, 3):
        crops = np.random.default_rng(count).standard_normal((count, 3, 80, 80)).astype(np.float32)
        np.testing.assert_array_equal(answers(before.model, crops), answers(after.model, crops))


@pytest.mark.parametrize(
    ("target", "shape", "constants"),
    [
        (["rest"], ("N", 3, 8, 8), [0, -1]),
        (["three", "rest"], ("N", 3, 8, 8), [0, 3, -1]),
        (["rest"], (1, 3, 8, 8), [1, -1]),
        (["rest"], ("N", 3, "H", "W"), [0, -1]),
    ],
)
def test_a_length_that_is_kept_is_zero_and_one_that_never_changes_itself(
    target: Sequence[str], shape: Sequence[int | str], constants: list[int]
) -> None:
    parts = graph(view(*target), shape=shape, zero=0, rest=[-1], three=[3])
    fixed = fix_sizes(parts)
    assert target_of(fixed) == constants
    assert len(fixed.weights) == 1
    before, after = (changed.assemble() for changed in (parts, fixed))
    batch = np.random.default_rng(0).standard_normal((1 if shape[0] == 1 else 3, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(answers(before.SerializeToString(), batch), answers(after.SerializeToString(), batch))


STAYS: Mapping[str, GraphParts] = {
    "lengths written at export": graph([make("Reshape", ["x", "k"], ["y"])], k=[0, -1]),
    "no flattening": graph([make("Relu", ["x"], ["y"])]),
    "zero as a length of none": graph(
        [*view("rest")[:-1], make("Reshape", ["x", "lengths"], ["y"], allowzero=1)], zero=0, rest=[-1]
    ),
    "a length kept at another place": graph(view("batch", "rest"), zero=0, rest=[-1]),
    "twice the batch": graph(
        [*view("rest")[:3], make("Mul", ["batch", "two"], ["twice"]),
         make("Concat", ["twice", "rest"], ["lengths"], axis=0), make("Reshape", ["x", "lengths"], ["y"])],
        zero=0, two=[2], rest=[-1],
    ),
    "more lengths for more pictures": graph(
        [*view("rest")[:3], make("Slice", ["many", "zero1", "batch"], ["ones"]),
         make("Concat", ["ones", "rest"], ["lengths"], axis=0), make("Reshape", ["x", "lengths"], ["y"])],
        zero=0, zero1=[0], many=[1, 1, 1], rest=[-1],
    ),
    "lengths that depend on pixels": graph(
        [make("NonZero", ["x"], ["nz"]), make("Shape", ["nz"], ["lengths"]), make("Reshape", ["x", "lengths"], ["y"])]
    ),
    "a value whose shape cannot be told": graph(
        [make("NonZero", ["x"], ["nz"]), *view("rest")[:-1], make("Reshape", ["nz", "lengths"], ["y"])],
        zero=0, rest=[-1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_what_is_neither_kept_nor_constant_stays_as_it_is(name: str) -> None:
    assert fix_sizes(STAYS[name]) is STAYS[name]


def test_a_graph_within_a_graph_may_read_anything_and_stays() -> None:
    inner = helper.make_graph(
        [make("Identity", ["lengths"], ["seen"])], "inner", [],
        [helper.make_tensor_value_info("seen", TensorProto.INT64, [2])],
    )  # fmt: skip
    branch = make("If", ["yes"], ["again"], then_branch=inner, else_branch=inner)
    parts = graph([*view("rest"), branch], zero=0, rest=[-1])
    assert fix_sizes(parts) is parts
