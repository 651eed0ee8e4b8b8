"""A batch is freed where every node treats each picture alone, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from jetface.graphs.free_batch import free_batch
from jetface.graphs.parts import GraphParts, take_apart
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import model, scrfd_model

make = helper.make_node


def graph(nodes: Sequence[onnx.NodeProto], *, opset: int = 11, **weights: Any) -> GraphParts:
    """A graph from `x` (1, 3, 8, 8) to `y`."""
    return take_apart(
        model(
            nodes,
            {name: np.asarray(value) for name, value in weights.items()},
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            opset=opset,
        )
    )


ROWS = np.array([-1, 3], np.int64)
SIZES = np.array([1, 3, 16, 16], np.int64)
TURN = make("Transpose", ["x"], ["t"], perm=[2, 3, 0, 1])

EXACT: Mapping[str, GraphParts] = {
    "pointwise": graph([make("Relu", ["x"], ["y"])]),
    "a weight for all": graph([make("Mul", ["x", "w"], ["y"])], w=np.float32(2)),
    "a weight a channel": graph([make("Add", ["x", "w"], ["y"])], w=np.ones((1, 3, 1, 1), np.float32)),
    "optional input": graph([make("Clip", ["x", "", "w"], ["y"])], w=np.float32(6)),
    "channels joined": graph([make("Concat", ["x", "x"], ["y"], axis=1)]),
    "scaled": graph([make("Resize", ["x", "", "s"], ["y"])], opset=20, s=np.array([1, 1, 2, 2], np.float32)),
    "channels joined, counted from the end": graph([make("Concat", ["x", "x"], ["y"], axis=-3)]),
    "split by channel": graph(
        [make("Split", ["x", "s"], ["a", "b"], axis=1), make("Concat", ["b", "a"], ["y"], axis=1)],
        opset=20, s=np.array([1, 2]),
    ),
    "a part of each channel": graph(
        [make("Slice", ["x", "f", "t", "a"], ["y"])], f=np.array([1, 0]), t=np.array([7, 4]), a=np.array([2, -1])
    ),
    "a share of each channel": graph([make("Softmax", ["x"], ["y"], axis=1)], opset=20),
    "a share of each row": graph([make("Softmax", ["x"], ["y"])], opset=20),
    "a share of each picture": graph([make("Softmax", ["x"], ["y"])]),
    "the best of each place": graph([make("ReduceMax", ["x"], ["y"], axes=[1])]),
    "the best of each place, by an input": graph([make("ReduceMax", ["x", "a"], ["y"])], opset=20, a=np.array([1])),
    "sides before channels": graph([make("Transpose", ["x"], ["t"], perm=[0, 2, 1, 3]), make("Relu", ["t"], ["y"])]),
    "rows of several numbers times a matrix": graph(
        [make("Reshape", ["x", "r"], ["f"]), make("Transpose", ["f"], ["t"], perm=[0, 2, 1]),
         make("MatMul", ["t", "w"], ["y"])],
        r=np.array([1, 3, 64]), w=np.ones((3, 2), np.float32),
    ),
    "flattened": graph(
        [make("Flatten", ["x"], ["f"]), make("Gemm", ["f", "w"], ["y"])], w=np.ones((192, 2), np.float32)
    ),
    "rows": graph([TURN, make("Reshape", ["t", "r"], ["y"])], r=ROWS),
    "rows of as many as one picture has": graph(
        [TURN, make("Reshape", ["t", "r"], ["y"])], r=np.array([64, 3], np.int64)
    ),
    "rows of one picture, in so many words": graph(
        [TURN, make("Reshape", ["t", "r"], ["y"])], r=np.array([1, 64, 3], np.int64)
    ),
    "rows where a zero is a length": graph([TURN, make("Reshape", ["t", "r"], ["y"], allowzero=1)], opset=20, r=ROWS),
    "one picture in a row": graph([make("Reshape", ["x", "r"], ["y"], allowzero=1)], opset=20, r=np.array([1, -1])),
    "reshaped by part of a shape": graph(
        [make("Shape", ["x"], ["s"], start=0, end=1), make("Concat", ["s", "k"], ["r"], axis=0),
         make("Reshape", ["x", "r"], ["y"])],
        opset=20, k=np.array([192]),
    ),
    "reshaped but for the batch": graph([make("Reshape", ["x", "r"], ["y"])], r=np.array([0, -1])),
    "reshaped by a computed batch, then normalized": graph(
        [make("Shape", ["x"], ["s"]), make("Gather", ["s", "i"], ["n"]), make("Unsqueeze", ["n"], ["u"], axes=[0]),
         make("Concat", ["u", "k"], ["r"], axis=0), make("Reshape", ["x", "r"], ["f"]),
         make("BatchNormalization", ["f", "w", "w", "w", "w"], ["y"])],
        i=np.array(0), k=np.array([192]), w=np.ones(192, np.float32),
    ),
}  # fmt: skip

DOUBTFUL: Mapping[str, GraphParts] = {
    "weights of two pictures": graph([make("Add", ["x", "w"], ["y"])], w=np.ones((2, 3, 1, 1), np.float32)),
    "weights of more axes": graph([make("Add", ["x", "w"], ["y"])], w=np.ones((1, 1, 3, 1, 1), np.float32)),
    "computed weights": graph([make("Neg", ["w"], ["v"]), make("Add", ["x", "v"], ["y"])], w=np.float32(1)),
    "pictures joined": graph([make("Concat", ["x", "x"], ["y"], axis=0)]),
    "pictures joined, counted from the end": graph([make("Concat", ["x", "x"], ["y"], axis=-4)]),
    "split by picture": graph([make("Split", ["x"], ["y"])], opset=11),
    "of some pictures": graph(
        [make("Slice", ["x", "f", "t", "a"], ["y"])], f=np.array([0]), t=np.array([1]), a=np.array([0])
    ),
    "of some pictures, not said": graph(
        [make("Slice", ["x", "f", "t"], ["y"])], f=np.array([0, 0]), t=np.array([1, 3])
    ),
    "a share of all pictures": graph([make("Softmax", ["x"], ["y"], axis=0)], opset=20),
    "a share of all pictures, counted from the end": graph([make("Softmax", ["x"], ["y"], axis=-4)], opset=20),
    "the best of all": graph([make("ReduceMax", ["x"], ["y"])]),
    "the best of all, said by no axis": graph([make("ReduceMax", ["x", "a"], ["y"])], opset=20, a=np.zeros(0, int)),
    "the best of all pictures": graph([make("ReduceMax", ["x"], ["y"], axes=[0, 1])]),
    "the best, an axis less": graph([make("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)]),
    "a matrix times the pictures": graph(
        [make("Reshape", ["x", "r"], ["f"]), make("MatMul", ["w", "f"], ["y"])],
        r=np.array([1, 3, 64]), w=np.ones((2, 3), np.float32),
    ),
    "pictures summed": graph([make("ReduceSum", ["x"], ["y"], axes=[0])]),
    "flattened across pictures": graph([make("Flatten", ["x"], ["y"], axis=0)]),
    "another transposition": graph([make("Transpose", ["x"], ["y"], perm=[1, 0, 2, 3])]),
    "transposed and left so": graph([make("Transpose", ["x"], ["y"], perm=[2, 3, 0, 1])]),
    "transposed and used": graph([TURN, make("Relu", ["t"], ["y"])]),
    "rows of no number": graph([TURN, make("Reshape", ["t", "r"], ["y"])], r=np.array([0, 3], np.int64)),
    "reshaped by a height": graph(
        [make("Shape", ["x"], ["s"], start=2, end=3), make("Concat", ["s", "k"], ["r"], axis=0),
         make("Reshape", ["x", "r"], ["y"])],
        opset=20, k=np.array([-1]),
    ),
    "a zero that is a length": graph([make("Reshape", ["x", "r"], ["y"], allowzero=1)], opset=20, r=np.array([0, -1])),
    "statistics of the batch": graph(
        [make("BatchNormalization", ["x", "w", "w", "w", "w"], ["y"], training_mode=1)],
        opset=20, w=np.ones(3, np.float32),
    ),
    "rows of a computed number": graph(
        [TURN, make("Shape", ["x"], ["s"]), make("Reshape", ["t", "s"], ["y"])]
    ),
    "rows kept from a height": graph([TURN, make("Reshape", ["t", "r"], ["y"])], r=np.array([0, -1, 3], np.int64)),
    "reshaped": graph([make("Reshape", ["x", "r"], ["y"])], r=ROWS),
    "reshaped to one row": graph([make("Reshape", ["x", "r"], ["y"])], r=np.array([0])),
    "a size fixed at export": graph([make("Resize", ["x", "", "", "s"], ["y"])], s=SIZES),
    "scaled across pictures": graph([make("Resize", ["x", "", "s"], ["y"])], s=np.array([2, 1, 1, 1], np.float32)),
    "no output of ours": graph([make("Identity", ["w"], ["y"]), make("Relu", ["x"], ["z"])], w=np.float32(1)),
    "the shape as output": graph([make("Shape", ["x"], ["s"]), make("Cast", ["s"], ["y"], to=1)]),
    "a sliced shape by step": graph(
        [make("Shape", ["x"], ["s"]), make("Slice", ["s", "a", "b", "a", "c"], ["y"])],
        a=np.array([0], np.int64), b=np.array([4], np.int64), c=np.array([2], np.int64),
    ),
    "an index past the end": graph([make("Shape", ["x"], ["s"]), make("Gather", ["s", "i"], ["y"])], i=np.array(7)),
    "a long weight in shape maths": graph([make("Concat", ["w", "w"], ["y"], axis=0)], w=np.arange(9)),
    "a split shape": graph([make("Shape", ["x"], ["s"]), make("Slice", ["s"], ["y"])]),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_nodes_that_treat_each_picture_alone_free_the_batch(name: str) -> None:
    assert free_batch(EXACT[name]) is not None


@pytest.mark.parametrize("name", DOUBTFUL)
def test_one_node_in_doubt_leaves_the_graph_alone(name: str) -> None:
    assert free_batch(DOUBTFUL[name]) is None


def test_the_tail_of_scrfd_becomes_one_row_of_anchors_a_picture() -> None:
    freed = free_batch(take_apart(scrfd_model()))
    assert freed is not None
    for node in freed.nodes:
        if node.op_type == "Transpose":
            assert list(node.attribute[0].ints) == [0, 2, 3, 1]
        if node.op_type == "Reshape":
            target = freed.constant(node.input[1])
            assert target is not None
            assert target.tolist()[:2] == [0, -1]


def test_the_graph_that_is_freed_stays_as_it_was() -> None:
    parts = take_apart(scrfd_model())
    before = parts.assemble().SerializeToString()
    free_batch(parts)
    assert parts.assemble().SerializeToString() == before


@pytest.mark.parametrize("name", EXACT)
def test_a_freed_graph_answers_several_pictures_as_one_by_one(name: str) -> None:
    """Run by ONNX Runtime, three pictures at once and each by the graph as it was."""
    freed = free_batch(EXACT[name])
    assert freed is not None
    size = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    pictures = np.random.default_rng(0).normal(0, 1, (3, 3, 8, 8)).astype(np.float32)
    (together,) = _run(freed.replace(inputs=[size]), pictures)
    for row, picture in zip(together, pictures, strict=True):
        (alone,) = _run(EXACT[name], picture[None])
        np.testing.assert_allclose(row.ravel(), alone.ravel(), rtol=1e-5, atol=1e-5)


def _run(parts: GraphParts, batch: Any) -> tuple[Any, ...]:
    (backend,) = open_onnx_backends(parts.assemble().SerializeToString(), max_batch_size=len(batch))
    return backend.run(batch)
