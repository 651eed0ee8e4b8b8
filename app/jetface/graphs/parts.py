"""An ONNX graph taken apart, so that it can be changed without copying its weights."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import inliner, numpy_helper, shape_inference, version_converter

_SMALL_WEIGHT = 64
"""Weights of at most this many elements take part in shape inference: they are sizes, axes and the like."""

_MIN_IR_VERSION = 4
"""From this version on weights need not be listed among the inputs of a graph."""

_MOST_BYTES = 2**31 - 1
"""Longest ONNX model that can be written as one file, which a prepared graph is. Source: protobuf's limit."""

_MOST_INLINED_NODES = 100_000
"""Most nodes a graph may have once its functions are written out: functions that call functions twice double each time.
The largest published recognizer has some 400."""

_PACKED_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
"""Bits of the element types that share a byte."""

_LOCATION = b"location"
"""Key under which a weight names its file: most models hold it nowhere, and need not be parsed to know."""

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


def take_apart(serialized: bytes, data: Mapping[str, bytes] = MappingProxyType({})) -> GraphParts:
    """Parse an ONNX model: calls of its own functions become the nodes of these, weights in other files its own.

    Args:
        serialized: The ONNX file.
        data: The files beside it that hold weights, as `read_data` returns them.

    Raises:
        GraphError: Not an ONNX graph, or one whose weights or functions cannot be used.
    """
    model = _inlined(_parse(serialized))
    graph = model.graph
    if not graph.node or not graph.output:
        raise GraphError("it holds no graph")
    num_bytes = 0
    for tensor in filter(_is_external, _tensors(graph)):
        num_bytes += _take_in(tensor, data)
        if num_bytes > _MOST_BYTES:
            raise GraphError("its weights are larger than 2 GiB")
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
    used = {node.domain for node in _all_nodes(graph)}
    return GraphParts(
        nodes=tuple(nodes),
        weights=MappingProxyType(weights),
        inputs=tuple(value for value in graph.input if value.name not in weights),
        outputs=tuple(graph.output),
        opset_imports=tuple(
            entry for entry in model.opset_import if _is_standard(entry.domain) or entry.domain in used
        ),
        ir_version=max(model.ir_version, _MIN_IR_VERSION),
    )


def read_data(serialized: bytes, folder: Path) -> Mapping[str, bytes]:
    """Read the files in which an ONNX model keeps weights, by the name it gives them, in order of name.

    Args:
        serialized: The ONNX file.
        folder: Where it lies. Nothing outside of it is read, by whatever path or link.

    Raises:
        GraphError: Not an ONNX model, or such a file is missing, outside of the folder or too large.
    """
    data = {}
    left_bytes = _MOST_BYTES
    for name in data_files(serialized):
        path = _inside(folder, name)
        try:
            # A size first: what is read is bounded. A device or a pipe, which has none, is no file.
            left_bytes -= path.stat().st_size
            if left_bytes < 0:
                raise GraphError("its weights are larger than 2 GiB")
            data[name] = path.read_bytes()
        except OSError as cause:
            raise GraphError(f"its weights are in {_shown(name)}, which cannot be read: {cause.strerror}") from cause
    return MappingProxyType(data)


def num_bytes(path: Path) -> int:
    """Return how long an ONNX file is, with the files beside it in which it keeps weights as far as can be told.

    Raises:
        OSError: The file cannot be read.
    """
    length = path.stat().st_size
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            # Long files are looked through where they lie: this is asked before there is known to be memory for them.
            names = data_files(bytes(view)) if view.find(_LOCATION) >= 0 else ()
        return length + sum(_inside(path.parent, name).stat().st_size for name in names)
    except (GraphError, ValueError):  # no model, or an empty file: whoever prepares it says so
        return length


def data_files(serialized: bytes) -> tuple[str, ...]:
    """Return the names of the files in which an ONNX model keeps weights, relative to its folder, in order.

    Raises:
        GraphError: Not an ONNX model, or a weight does not say where it is.
    """
    if _LOCATION not in serialized:
        return ()
    model = _parse(serialized)
    owners: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph]
    owners += model.functions
    found = {_place(tensor)["location"] for owner in owners for tensor in _tensors(owner) if _is_external(tensor)}
    return tuple(sorted(found))


def _parse(serialized: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(serialized)
    except DecodeError as cause:
        raise GraphError("it is not an ONNX file") from cause


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _place(tensor: onnx.TensorProto) -> Mapping[str, str]:
    """Return where an external tensor says its bytes are."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    # Names that are not UTF-8 come as bytes.
    if not isinstance(place.get("location"), str) or not place["location"]:
        raise GraphError(f"it keeps its weights in other files, and {_shown(tensor.name)} does not say in which")
    return place


def _inside(folder: Path, name: str) -> Path:
    """Return the file of that name in a folder or below it, links followed; none that leads out of it."""
    pure = PurePosixPath(name)
    outside = GraphError(f"its weights are in {_shown(name)}, which is outside of the model's folder")
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise outside
    try:
        path = (folder / pure).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise outside
        if not path.is_file():
            raise GraphError(f"its weights are in {_shown(name)}, which is not there")
    except (OSError, RuntimeError) as cause:  # a name that is too long; links in a circle
        raise GraphError(f"its weights are in {_shown(name)}, which cannot be read") from cause
    return path


def _take_in(tensor: onnx.TensorProto, data: Mapping[str, bytes]) -> int:
    """Put the bytes of an external tensor into it; return how many they are."""
    place = _place(tensor)
    content = data.get(place["location"])
    if content is None:
        raise GraphError("it keeps its weights in other files")
    try:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        bits = _PACKED_BITS.get(kind) or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        need_bytes = (math.prod(tensor.dims) * bits + 7) // 8
        offset = int(place.get("offset", 0))
        length = int(place.get("length", need_bytes))
    except (KeyError, TypeError, ValueError) as cause:
        raise GraphError(f"its weight {_shown(tensor.name)} cannot be read") from cause
    if kind == "STRING" or length != need_bytes or offset < 0 or min(tensor.dims, default=0) < 0:
        raise GraphError(f"its weight {_shown(tensor.name)} does not fit its place in another file")
    if offset + length > len(content):
        raise GraphError(f"its weight {_shown(tensor.name)} lies beyond the end of {_shown(place['location'])}")
    tensor.raw_data = content[offset : offset + length]
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
    return length


def _shown(name: str) -> str:
    """Return a name out of a file as one line that is not too long."""
    return repr(name[:80])


def _tensors(owner: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that a graph or function holds: weights, and attributes of its nodes."""
    yield from getattr(owner, "initializer", ())
    for node in owner.node:
        for entry in node.attribute:
            if entry.HasField("t"):
                yield entry.t
            yield from entry.tensors
            for below in _subgraphs(entry):
                yield from _tensors(below)


def _all_nodes(owner: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, those of subgraphs included."""
    for node in owner.node:
        yield node
        for entry in node.attribute:
            for below in _subgraphs(entry):
                yield from _all_nodes(below)


def _subgraphs(entry: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if entry.HasField("g"):
        yield entry.g
    yield from entry.graphs


def _is_standard(domain: str) -> bool:
    return domain in _DEFAULT_DOMAINS


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose own functions are written out where they are called."""
    if not model.functions:
        return model
    _check_functions(model)
    try:
        newest = max(_opset(model), *(_opset(function) for function in model.functions))
        if _opset(model) < newest:
            # Operators are converted upwards far better than downwards.
            functions = list(model.functions)
            del model.functions[:]
            model = version_converter.convert_version(model, newest)
            model.functions.extend(functions)
        inlined = inliner.inline_local_functions(model, convert_version=True)
    except Exception as cause:  # what the library raises depends on its version
        raise GraphError("its functions cannot be written out") from cause
    if inlined.functions:
        raise GraphError(f"its function {_shown(inlined.functions[0].name)} cannot be written out")
    return inlined


def _opset(owner: onnx.ModelProto | onnx.FunctionProto) -> int:
    """Return the version of the standard operators that a model or function is written in."""
    return next((entry.version for entry in owner.opset_import if _is_standard(entry.domain)), 1)


def _check_functions(model: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, or would make a graph of more nodes than memory may hold.

    Raises:
        GraphError: The message says which.
    """
    bodies = {_called(function): function for function in model.functions}
    lengths: dict[tuple[str, str, str], int | None] = {}

    def length(owner: onnx.GraphProto | onnx.FunctionProto) -> int:
        total = 0
        for node in _all_nodes(owner):
            called = (node.domain, node.op_type, getattr(node, "overload", ""))
            body = bodies.get(called)
            if body is None:
                total += 1
                continue
            if called not in lengths:
                lengths[called] = None
                lengths[called] = length(body)
            known = lengths[called]
            if known is None:
                raise GraphError(f"its function {_shown(body.name)} calls itself")
            total += known
            if total > _MOST_INLINED_NODES:
                raise GraphError(f"its functions would be more than {_MOST_INLINED_NODES} nodes")
        return total

    try:
        length(model.graph)
    except RecursionError as cause:
        raise GraphError("its functions are nested too deeply") from cause


def _called(function: onnx.FunctionProto) -> tuple[str, str, str]:
    """Return what a node says that calls a function."""
    return function.domain, function.name, getattr(function, "overload", "")


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
