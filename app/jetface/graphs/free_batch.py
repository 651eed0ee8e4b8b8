"""Let a graph that was exported for one picture take several, where that is exact.

SCRFD exports end in `Transpose(2, 3, 0, 1) -> Reshape(-1, C)`: with one picture that lists its anchors row by row; with
several it would interleave them. The same memory order comes from `Transpose(0, 2, 3, 1) -> Reshape(0, -1, C)`, which
keeps pictures apart. Every other node must be one that treats each picture alone; one node we cannot vouch for and the
graph stays as it is. What its exporter says of its batch is then tried: `answers_apart`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from jetface.errors import InferenceError, ModelFileError
from jetface.graphs.parts import GraphParts, attribute
from jetface.runtimes.onnx import open_onnx_backends

_POINTWISE = frozenset(
    {"Add", "Clip", "Div", "Elu", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mul"}
    | {"DequantizeLinear", "Neg", "PRelu", "QuantizeLinear", "Relu", "Sigmoid", "Sqrt", "Sub", "Tanh"}
)
_SPATIAL = frozenset(
    {"AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization", "MaxPool"}
)
_ALONG_AXES = frozenset({"Concat", "ReduceMax", "Slice", "Softmax", "Split"})
_SHAPE_MATHS = frozenset({"Cast", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze"})

_HWNC = (2, 3, 0, 1)
_NHWC = (0, 2, 3, 1)

_MAP_RANK = 4

_NEAR = 1e-3
"""Most that an answer may differ, over the largest number in it. Rounding gives some 1e-6."""

_Length = int | Literal["batch"] | None
"""One element of a computed shape: a number, the batch, or something we do not follow."""


class _NotProvableError(Exception):
    """A node that may mix pictures."""


def free_batch(parts: GraphParts) -> GraphParts | None:
    """Return the graph for any number of pictures, each answered as if it were alone.

    Args:
        parts: A graph with one (N, C, H, W) input; what is declared of N does not matter.

    Returns:
        The graph with outputs `(N, ...)`: 2-D `[anchors, C]` ones became `[N, anchors, C]`. None when some node is not
        known to treat every picture alone.
    """
    try:
        return _Proof(parts).result()
    except _NotProvableError:
        return None


def answers_apart(model: bytes, image_hw: tuple[int, int]) -> bool:
    """Whether a graph of free batch answers two items together as it answers each alone; they are run to see.

    Exporters declare a batch free whatever the graph does with it: a softmax or a mean over the wrong axis, statistics
    of the batch, or a number of rows fixed at export make an answer depend on what else is in its batch.

    Args:
        model: The graph, serialized, of float32 input (N, 3, H, W). Run by ONNX Runtime on the CPU.
        image_hw: Height and width of an item.

    Returns:
        False also where two items cannot be run at all.
    """
    rng = np.random.default_rng(0)
    # As unlike as two items can be, at the scale of normalised pixels: what they do to each other is seen.
    items = np.stack([rng.uniform(-1, 1, (3, *image_hw)), rng.uniform(-0.1, 0, (3, *image_hw))]).astype(np.float32)
    try:
        (backend,) = open_onnx_backends(model, max_batch_size=len(items))
    except ModelFileError:
        return False
    with contextlib.closing(backend):
        try:
            together = backend.run(items)
            apart = [backend.run(item[None]) for item in items]
        except InferenceError:
            return False
    return all(
        len(both) == len(items) and both[row].shape == alone.shape[1:] and _are_near(both[row], alone[0])
        for row, answers in enumerate(apart)
        for both, alone in zip(together, answers, strict=True)
    )


def _are_near(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two answers differ by no more than the order in which their sums were taken."""
    largest = float(np.abs(other[np.isfinite(other)]).max(initial=0))
    return bool(np.allclose(one, other, rtol=0, atol=_NEAR * largest, equal_nan=True))


class _Proof:
    """Walks the nodes in order and keeps, for every tensor, how it depends on the batch."""

    def __init__(self, parts: GraphParts) -> None:
        self._parts = parts
        self._ranks: dict[str, int] = {parts.inputs[0].name: _MAP_RANK}
        """Rank of tensors whose axis 0 is the batch."""
        self._planes: dict[str, tuple[int, bool]] = {}
        """Transposed maps: position of the node in `_nodes`, and whether the batch was axis 0 from the start."""
        self._shapes: dict[str, tuple[_Length, ...]] = {}
        self._dequantized: dict[str, int] = {}
        """Ranks of weights that are stored as integers."""
        self._nodes: list[onnx.NodeProto] = []
        self._new_weights: dict[str, NDArray[Any]] = {}

    def result(self) -> GraphParts:
        for node in self._parts.nodes:
            if node.op_type in _SHAPE_MATHS and not any(name in self._ranks for name in node.input):
                self._shape_maths(node)
            elif node.op_type == "DequantizeLinear" and (rank := self._weight_rank(node.input[0])) is not None:
                self._dequantized[node.output[0]] = rank
            elif node.op_type == "Shape":
                self._ranks_of(node)
                lengths: tuple[_Length, ...] = ("batch", *[None] * (self._ranks[node.input[0]] - 1))
                self._shapes[node.output[0]] = lengths[attribute(node, "start", 0) : attribute(node, "end")]
            elif node.op_type == "Reshape" and node.input[0] in self._planes:
                self._rows(node)
                continue
            elif node.op_type == "Reshape" and self._is_for_one(node):
                reshaped = self._reshape(node, [0, *self._elements(node.input[1])[1:]])
                self._ranks[node.output[0]] = len(self._elements(node.input[1]))
                self._nodes.append(reshaped)
                continue
            else:
                self._ranks |= dict.fromkeys(node.output, self._rank_after(node))
            self._nodes.append(node)
            if node.op_type == "Transpose" and (perm := tuple(attribute(node, "perm"))) in {_HWNC, _NHWC}:
                self._planes[node.output[0]] = (len(self._nodes) - 1, perm == _NHWC)
        if any(end.name not in self._ranks or end.name in self._planes for end in self._parts.outputs):
            raise _NotProvableError
        return self._parts.replace(nodes=self._nodes, new_weights=self._new_weights)

    def _rank_after(self, node: onnx.NodeProto) -> int:
        """Rank of a node's output, whose axis 0 is the batch again."""
        op, ranks = node.op_type, self._ranks_of(node)
        is_one_map = ranks == [_MAP_RANK]
        if op == "Reshape":
            return self._rank_of_rows(node)
        if (
            (op in _POINTWISE and self._broadcasts(node, ranks))
            # Trained statistics, one a channel; an output more and it would be training.
            or (
                op == "BatchNormalization"
                and (len(ranks), len(node.output), attribute(node, "training_mode", 0)) == (1, 1, 0)
            )
            or (op in _SPATIAL and is_one_map and len(node.output) == 1)
            or (op in _ALONG_AXES and self._leaves_batch(node, ranks))
            or (op in {"Resize", "Upsample"} and is_one_map and self._keeps_batch(node))
            or (op == "Transpose" and is_one_map and tuple(attribute(node, "perm", ())) == _HWNC)
            or (op == "Transpose" and tuple(attribute(node, "perm", ()))[:1] == (0,))
            or (op == "MatMul" and ranks == [3] and self._weight_rank(node.input[1]) == 2)
        ):
            return ranks[0]
        if (op == "Flatten" and attribute(node, "axis", 1) == 1) or self._is_matrix_product(node, ranks):
            return 2
        raise _NotProvableError

    def _leaves_batch(self, node: onnx.NodeProto, ranks: list[int]) -> bool:
        """Whether a node works along axes of which the batch is none, and keeps them all."""
        op, axes = node.op_type, list[int]()
        if op in {"Concat", "Softmax", "Split"}:
            # Before opset 13 Softmax took all axes from this one on, 1 unless it was said.
            usual = {"Split": 0, "Softmax": -1 if self._parts.opset >= 13 else 1}.get(op)
            axes = [attribute(node, "axis", usual)]
        elif op == "Slice" and len(node.input) > 3:
            given = self._parts.constant(node.input[3])
            axes = [] if given is None else given.tolist()
        elif op == "ReduceMax" and attribute(node, "keepdims", 1):
            given = self._parts.constant(node.input[1]) if len(node.input) > 1 else None
            axes = attribute(node, "axes", []) if given is None else given.tolist()
        # What they read besides is small and the same for every picture.
        others = [name for name in node.input if name and name not in self._ranks]
        are_constant = all(self._weight_rank(name) is not None for name in others) and (op != "Concat" or not others)
        # Where none is said, it is all of them.
        return bool(axes) and are_constant and all(axis % ranks[0] > 0 for axis in axes)

    def _rank_of_rows(self, node: onnx.NodeProto) -> int:
        """Rank after a Reshape that takes the batch for its first axis, and so keeps each picture's values together."""
        target = self._elements(node.input[1])
        # With `allowzero` a 0 is a length, and not that of the input.
        kept = {"batch"} if attribute(node, "allowzero", 0) else {"batch", 0}
        if len(target) < 2 or target[0] not in kept:
            raise _NotProvableError
        return len(target)

    def _is_for_one(self, node: onnx.NodeProto) -> bool:
        """Whether a Reshape names one picture and all its values: a 0 for the 1 says the same of any number."""
        self._ranks_of(node)
        target = self._parts.constant(node.input[1])
        return target is not None and 2 <= target.size <= _MAP_RANK and target[0] == 1

    def _reshape(self, node: onnx.NodeProto, target: Sequence[_Length]) -> onnx.NodeProto:
        """Return the Reshape with another target, in which a 0 is the length of the input."""
        weight = f"{node.output[0]}/rows"
        self._new_weights[weight] = np.array(target, np.int64)
        reshaped = onnx.NodeProto()
        reshaped.CopyFrom(node)
        reshaped.input[1] = weight
        for index, entry in enumerate(reshaped.attribute):
            if entry.name == "allowzero":
                del reshaped.attribute[index]
                break
        return reshaped

    def _is_matrix_product(self, node: onnx.NodeProto, ranks: list[int]) -> bool:
        """Whether rows, one an item, are multiplied by a weight."""
        return (
            node.op_type in {"Gemm", "MatMul"}
            and ranks == [2]
            and node.input[0] in self._ranks
            and not attribute(node, "transA", 0)
            and self._weight_rank(node.input[1]) == 2
        )

    def _ranks_of(self, node: onnx.NodeProto) -> list[int]:
        """Ranks of the inputs that depend on the batch: at least one, all alike, none of them transposed."""
        ranks = [self._ranks[name] for name in node.input if name in self._ranks]
        if not ranks or len(set(ranks)) != 1 or any(name in self._planes for name in node.input):
            raise _NotProvableError
        return ranks

    def _weight_rank(self, name: str) -> int | None:
        weight = self._parts.weights.get(name)
        return self._dequantized.get(name) if weight is None else len(weight.dims)

    def _broadcasts(self, node: onnx.NodeProto, ranks: list[int]) -> bool:
        """Whether the weights of a pointwise node are the same for every picture."""
        for name in node.input:
            if not name or name in self._ranks:
                continue
            weight = self._parts.weights.get(name)
            if weight is None or len(weight.dims) > ranks[0]:
                return False
            if len(weight.dims) == ranks[0] and weight.dims[0] != 1:
                return False
        return True

    def _keeps_batch(self, node: onnx.NodeProto) -> bool:
        """Whether a Resize takes its batch from its input and not from a number fixed at export."""
        inputs = [*node.input, "", "", "", ""]
        scales = self._parts.constant(inputs[1] if node.op_type == "Upsample" else inputs[2])
        if scales is not None and scales.size:
            return scales.size == _MAP_RANK and scales[0] == 1
        return self._shapes.get(inputs[3], (None,))[0] == "batch"

    def _rows(self, node: onnx.NodeProto) -> None:
        """Turn `Transpose -> Reshape([-1, C])` into one that keeps pictures apart."""
        at, was_nhwc = self._planes[node.input[0]]
        target = self._parts.constant(node.input[1])
        if target is None or target.size not in {2, 3} or target[-1] < 1 or target[-2] == 0:
            raise _NotProvableError
        # [-1, C], or as many rows as one picture has; before them 1 or 0 may stand for the one picture.
        batch = [int(length) for length in target[:-2]]
        if batch not in ([], [1], [0]) or (batch == [0] and (not was_nhwc or attribute(node, "allowzero", 0))):
            raise _NotProvableError
        turned = onnx.NodeProto()
        turned.CopyFrom(self._nodes[at])
        del turned.attribute[:]
        turned.attribute.append(onnx.helper.make_attribute("perm", _NHWC))
        self._nodes[at] = turned
        self._nodes.append(self._reshape(node, [0, -1, int(target[-1])]))
        self._ranks[node.output[0]] = 3

    def _shape_maths(self, node: onnx.NodeProto) -> None:
        """Follow the elements of a shape through the nodes exporters put around Resize."""
        values = [self._elements(name) for name in node.input]
        first = values[0]
        if node.op_type == "Concat":
            self._shapes[node.output[0]] = tuple(element for value in values for element in value)
        elif node.op_type == "Gather":
            self._shapes[node.output[0]] = tuple(_at(first, index) for index in values[1])
        elif node.op_type == "Slice" and len(values) >= 3:
            steps = values[4] if len(values) > 4 else (1,)
            low, high = values[1][0], values[2][0]
            if steps != (1,) or not isinstance(low, int) or not isinstance(high, int):
                raise _NotProvableError
            self._shapes[node.output[0]] = first[low:high]
        elif node.op_type in {"Cast", "Squeeze", "Unsqueeze"}:
            self._shapes[node.output[0]] = first
        else:
            raise _NotProvableError

    def _elements(self, name: str) -> tuple[_Length, ...]:
        if name in self._shapes:
            return self._shapes[name]
        value = self._parts.constant(name)
        if value is None or value.size > _MAP_RANK:
            raise _NotProvableError
        return tuple(int(element) for element in value.ravel())


def _at(shape: tuple[_Length, ...], index: _Length) -> _Length:
    if not isinstance(index, int) or not -len(shape) <= index < len(shape):
        raise _NotProvableError
    return shape[index]
