"""Let a graph that was exported for one picture take several, where that is exact.

SCRFD exports end in `Transpose(2, 3, 0, 1) -> Reshape(-1, C)`: with one picture that lists its anchors row by row; with
several it would interleave them. The same memory order comes from `Transpose(0, 2, 3, 1) -> Reshape(0, -1, C)`, which
keeps pictures apart. Every other node must be one that treats each picture alone; one node we cannot vouch for and the
graph stays as it is.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from app.models.graphs.parts import GraphParts, attribute

_POINTWISE = frozenset(
    {"Add", "Clip", "Div", "Elu", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mul"}
    | {"Neg", "PRelu", "Relu", "Sigmoid", "Sqrt", "Sub", "Tanh"}
)
_SPATIAL = frozenset(
    {"AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization", "MaxPool"}
)
_SHAPE_MATHS = frozenset({"Cast", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze"})

_HWNC = (2, 3, 0, 1)
_NHWC = (0, 2, 3, 1)

_MAP_RANK = 4

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


class _Proof:
    """Walks the nodes in order and keeps, for every tensor, how it depends on the batch."""

    def __init__(self, parts: GraphParts) -> None:
        self._parts = parts
        self._ranks: dict[str, int] = {parts.inputs[0].name: _MAP_RANK}
        """Rank of tensors whose axis 0 is the batch."""
        self._planes: dict[str, tuple[int, bool]] = {}
        """Transposed maps: position of the node in `_nodes`, and whether the batch was axis 0 from the start."""
        self._shapes: dict[str, tuple[_Length, ...]] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._new_weights: dict[str, NDArray[Any]] = {}

    def result(self) -> GraphParts:
        for node in self._parts.nodes:
            if node.op_type in _SHAPE_MATHS and not any(name in self._ranks for name in node.input):
                self._shape_maths(node)
            elif node.op_type == "Shape":
                self._ranks_of(node)
                rank = self._ranks[node.input[0]]
                self._shapes[node.output[0]] = ("batch", *[None] * (rank - 1))
            elif node.op_type == "Reshape" and node.input[0] in self._planes:
                self._rows(node)
                continue
            else:
                self._ranks[node.output[0]] = self._rank_after(node)
            self._nodes.append(node)
            if node.op_type == "Transpose":
                is_nhwc = tuple(attribute(node, "perm")) == _NHWC
                self._planes[node.output[0]] = (len(self._nodes) - 1, is_nhwc)
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
            or (op == "BatchNormalization" and len(ranks) == 1 and len(node.output) == 1)
            or (op in _SPATIAL and is_one_map and len(node.output) == 1)
            or (op == "Concat" and attribute(node, "axis") > 0 and len(ranks) == len(node.input))
            or (op in {"Resize", "Upsample"} and is_one_map and self._keeps_batch(node))
            or (op == "Transpose" and is_one_map and tuple(attribute(node, "perm", ())) in {_HWNC, _NHWC})
        ):
            return ranks[0]
        if (op == "Flatten" and attribute(node, "axis", 1) == 1) or self._is_matrix_product(node, ranks):
            return 2
        raise _NotProvableError

    def _rank_of_rows(self, node: onnx.NodeProto) -> int:
        """Rank after a Reshape that takes the batch for its first axis, and so keeps each picture's values together."""
        target = self._elements(node.input[1])
        if len(target) < 2 or target[0] not in {"batch", 0}:
            raise _NotProvableError
        return len(target)

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
        return None if weight is None else len(weight.dims)

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
        if target is None or target.tolist()[:-1] not in ([-1], [1, -1], [0, -1]) or target[-1] < 1:
            raise _NotProvableError
        if target.tolist()[0] == 0 and not was_nhwc:
            raise _NotProvableError
        turned = onnx.NodeProto()
        turned.CopyFrom(self._nodes[at])
        del turned.attribute[:]
        turned.attribute.append(onnx.helper.make_attribute("perm", _NHWC))
        self._nodes[at] = turned
        weight = f"{node.output[0]}/rows"
        self._new_weights[weight] = np.array([0, -1, int(target[-1])], np.int64)
        reshaped = onnx.NodeProto()
        reshaped.CopyFrom(node)
        reshaped.input[1] = weight
        self._nodes.append(reshaped)
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
