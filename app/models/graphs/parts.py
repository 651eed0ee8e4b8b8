"""An ONNX graph taken apart, so that it can be changed without copying its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference

_SMALL_WEIGHT = 64
"""Weights of at most this many elements take part in shape inference: they are sizes, axes and the like."""

_MIN_IR_VERSION = 4
"""From this version on weights need not be listed among the inputs of a graph."""

_DEFAULT_DOMAINS = frozenset({"", "ai.onnx"})

Shape = tuple[int | None, ...]
"""Length of each axis; None where it is free."""


class GraphError(ValueError):
    """A file holds no graph that can be used; the message says why."""


@dataclass(frozen=True, slots=True)
class GraphParts:
    """Nodes in order, weights by name. Values are shared between copies: never change one in place."""

    nodes: tuple[onnx.NodeProto, ...]
    weights: Mapping[str, onnx.TensorProto]
    inputs: tuple[onnx.ValueInfoProto, ...]
    outputs: tuple[onnx.ValueInfoProto, ...]
    opset_imports: tuple[onnx.OperatorSetIdProto, ...]
    ir_version: int

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return next((entry.version for entry in self.opset_imports if entry.domain in _DEFAULT_DOMAINS), 1)

    @property
    def has_subgraphs(self) -> bool:
        """Whether a node holds graphs of its own, which may read values by name."""
        return _have_subgraphs(self.nodes)

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return the value of a weight; None when `name` is computed, fed, or empty."""
        weight = self.weights.get(name)
        return None if weight is None else numpy_helper.to_array(weight)

    def replace(
        self,
        *,
        nodes: Iterable[onnx.NodeProto] | None = None,
        new_weights: Mapping[str, NDArray[Any]] | None = None,
        inputs: Iterable[onnx.ValueInfoProto] | None = None,
        outputs: Iterable[onnx.ValueInfoProto] | None = None,
    ) -> GraphParts:
        """Return a copy with other nodes, more weights, or other inputs and outputs.

        Weights that no node reads any more are dropped.
        """
        kept = self.nodes if nodes is None else tuple(nodes)
        weights = dict(self.weights)
        for name, value in (new_weights or {}).items():
            weights[name] = numpy_helper.from_array(value, name)
        ends = self.outputs if outputs is None else tuple(outputs)
        if not _have_subgraphs(kept):
            read = {name for node in kept for name in node.input} | {end.name for end in ends}
            weights = {name: weight for name, weight in weights.items() if name in read}
        return GraphParts(
            nodes=kept,
            weights=MappingProxyType(weights),
            inputs=self.inputs if inputs is None else tuple(inputs),
            outputs=ends,
            opset_imports=self.opset_imports,
            ir_version=self.ir_version,
        )

    def assemble(self) -> onnx.ModelProto:
        """Build the model again, without annotations of inner shapes: a stale one makes ONNX Runtime warn."""
        return self._model(self.weights.values(), self.inputs)

    def infer_shapes(self) -> Mapping[str, Shape]:
        """Return what the operators themselves say about the shape of every computed tensor.

        Annotations of the file are not asked. A tensor whose rank cannot be told is missing.
        """
        return {value.name: shape for value in self._infer() if (shape := shape_of(value))}

    def infer_types(self) -> Mapping[str, int]:
        """Return what the operators themselves say about the element type of every computed tensor."""
        return {value.name: value.type.tensor_type.elem_type for value in self._infer()}

    def _infer(self) -> list[onnx.ValueInfoProto]:
        """Annotate every computed tensor."""
        small = [weight for weight in self.weights.values() if np.prod(weight.dims) <= _SMALL_WEIGHT]
        names = {weight.name for weight in small}
        # Large weights stand in as inputs: inference needs their shapes only, and copying them takes its time.
        large = [
            onnx.helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims))
            for weight in self.weights.values()
            if weight.name not in names
        ]
        skeleton = self._model(small, (*self.inputs, *large), blank_outputs=True)
        try:
            graph = shape_inference.infer_shapes(skeleton, data_prop=True).graph
        except shape_inference.InferenceError as cause:
            known = onnx.defs.onnx_opset_version()
            if self.opset > known:
                raise GraphError(
                    f"its operators are of opset {self.opset} and are known here up to {known}: update onnx and "
                    "onnxruntime, or export the model anew with an older opset"
                ) from cause
            raise GraphError("its operators do not fit together") from cause
        return [*graph.value_info, *graph.output]

    def _model(
        self,
        weights: Iterable[onnx.TensorProto],
        inputs: Iterable[onnx.ValueInfoProto],
        *,
        blank_outputs: bool = False,
    ) -> onnx.ModelProto:
        outputs = [
            onnx.helper.make_tensor_value_info(end.name, end.type.tensor_type.elem_type, None) if blank_outputs else end
            for end in self.outputs
        ]
        graph = onnx.helper.make_graph(list(self.nodes), "graph", list(inputs), outputs, list(weights))
        return onnx.helper.make_model(
            graph, opset_imports=list(self.opset_imports), ir_version=self.ir_version, producer_name="jetface"
        )


def take_apart(serialized: bytes) -> GraphParts:
    """Parse an ONNX file.

    Raises:
        GraphError: Not an ONNX graph, or its weights are in other files.
    """
    try:
        model = onnx.load_model_from_string(serialized)
    except DecodeError as cause:
        raise GraphError("it is not an ONNX file") from cause
    graph = model.graph
    if not graph.node or not graph.output:
        raise GraphError("it holds no graph")
    if any(weight.data_location == onnx.TensorProto.EXTERNAL for weight in graph.initializer):
        raise GraphError("it keeps its weights in other files")
    weights = {weight.name: weight for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            value = onnx.TensorProto()
            value.CopyFrom(node.attribute[0].t)
            value.name = node.output[0]
            weights[value.name] = value
        else:
            nodes.append(node)
    return GraphParts(
        nodes=tuple(nodes),
        weights=MappingProxyType(weights),
        inputs=tuple(value for value in graph.input if value.name not in weights),
        outputs=tuple(graph.output),
        opset_imports=tuple(model.opset_import),
        ir_version=max(model.ir_version, _MIN_IR_VERSION),
    )


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return an attribute of a node, `default` when it has none of that name."""
    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def shape_of(value: onnx.ValueInfoProto) -> Shape | None:
    """Return the declared shape; None when not even the rank is known. Lengths below 1 count as free."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(axis.dim_value if axis.dim_value > 0 else None for axis in kind.shape.dim)


def _have_subgraphs(nodes: Iterable[onnx.NodeProto]) -> bool:
    return any(entry.HasField("g") or entry.graphs for node in nodes for entry in node.attribute)
