"""Whether a graph is what its registry entry says, as far as the graph itself tells; a probe run tells the rest."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx

from jetface.errors import ModelContractError
from jetface.models.graphs.parts import GraphParts, Shape, shape_of
from jetface.specs import ModelSpec

_DETECTION_OUTPUTS: Mapping[str, tuple[int, ...]] = MappingProxyType({"scrfd": (6, 9), "yunet": (12,)})
"""By family: scores and distances of three strides, without or with landmarks; YuNet has two scores."""

_CHANNELS = 3


def check_inputs(parts: GraphParts, spec: ModelSpec) -> None:
    """Check that a graph takes one (N, 3, H, W) float32 tensor of the entry's size.

    Raises:
        ModelContractError: It does not; the message tells what was found.
    """
    found = ", ".join(map(_describe, parts.inputs)) or "none"
    if len(parts.inputs) != 1:
        raise ModelContractError(f"Model {spec.name} should have one input; found {found}.")
    shape = shape_of(parts.inputs[0])
    is_float = parts.inputs[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    if shape is None or len(shape) != 4 or shape[1] not in (_CHANNELS, None) or not is_float:
        raise ModelContractError(f"Model {spec.name} should take (N, 3, H, W) float32; found {found}.")
    wanted_hw = (spec.input.height_px, spec.input.width_px)
    if any(wanted and length not in (wanted, None) for wanted, length in zip(wanted_hw, shape[2:], strict=True)):
        raise ModelContractError(f"Model {spec.name} should take {wanted_hw[0]}x{wanted_hw[1]} pixels; found {found}.")


def canvas_hw(parts: GraphParts, spec: ModelSpec) -> Shape:
    """Return the height and width a checked graph runs at: fixed by graph or entry, else None for both."""
    shape = shape_of(parts.inputs[0]) or ()
    height_px, width_px = (
        length or wanted or None
        for length, wanted in zip(shape[2:], (spec.input.height_px, spec.input.width_px), strict=True)
    )
    return (height_px, width_px)


def check_outputs(parts: GraphParts, spec: ModelSpec, shapes: Mapping[str, Shape]) -> None:
    """Check number, type and rank of the outputs, and the embedding's length where the graph fixes it.

    Args:
        parts: The graph.
        spec: What it has to be.
        shapes: What `infer_shapes` says of it.

    Raises:
        ModelContractError: They are not what the task wants; the message tells what was found.
    """
    found = ", ".join(f"{end.name} {_words(shapes.get(end.name))}" for end in parts.outputs)
    if any(end.type.tensor_type.elem_type != onnx.TensorProto.FLOAT for end in parts.outputs):
        raise ModelContractError(f"Model {spec.name} should answer in float32; found {found}.")
    ranks = {len(shapes[end.name]) for end in parts.outputs if end.name in shapes}
    if spec.task == "detection":
        numbers = _DETECTION_OUTPUTS[spec.family]
        if len(parts.outputs) not in numbers or not ranks <= {2, 3}:
            wanted = " or ".join(map(str, numbers))
            raise ModelContractError(
                f"Model {spec.name} should have {wanted} outputs [anchors, C] or [N, anchors, C]; found {found}."
            )
        return
    is_row = all(_is_row(shapes[end.name], spec.row_length) for end in parts.outputs if end.name in shapes)
    if len(parts.outputs) != 1 or not is_row:
        raise ModelContractError(f"Model {spec.name} should have one output [N, {spec.row_length}]; found {found}.")


def declares_free_batch(parts: GraphParts, spec: ModelSpec, shapes: Mapping[str, Shape]) -> bool:
    """Whether the exporter left the batch free and nothing speaks against it.

    Args:
        parts: The graph, its input as the exporter declared it.
        spec: What the graph is for.
        shapes: What `infer_shapes` says of it when the batch is free.
    """
    if (shape_of(parts.inputs[0]) or (1,))[0] is not None:
        return False
    # A detector that answers [anchors, C] lists the anchors of all pictures in an order only it knows.
    least_rank = 3 if spec.task == "detection" else 2
    outputs = [shapes.get(end.name, ()) for end in parts.outputs]
    return all(len(shape) >= least_rank and shape[0] is None for shape in outputs)


def _is_row(shape: Shape, length: int | None) -> bool:
    """Whether (N, length) is meant; some exports keep trailing axes of length 1."""
    return len(shape) >= 2 and shape[1] in {length, None} and all(axis in {1, None} for axis in shape[2:])


def _describe(value: onnx.ValueInfoProto) -> str:
    number = value.type.tensor_type.elem_type
    is_known = number in onnx.TensorProto.DataType.values()
    kind = onnx.TensorProto.DataType.Name(number).lower() if is_known else f"of type {number}"
    return f"{value.name} {_words(shape_of(value))} {kind}"


def _words(shape: Shape | None) -> str:
    return "of unknown rank" if shape is None else str([length or "?" for length in shape]).replace("'", "")
