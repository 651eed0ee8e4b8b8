"""Pictures to batches: normalised here, or by the graph itself from the pixels as they are.

A graph that takes pixels is given a quarter of the bytes, and the CPU has nothing to compute: it pays where a batch is
carried to a GPU. On a CPU it does not: `to_blob` is faster than the same steps as nodes (docs/adr/0009-fp16-graphs.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.helper import make_node

from jetface.domain import Batch, Image
from jetface.geometry.tensors import to_blob
from jetface.graphs.parts import GraphParts
from jetface.registry import InputSpec


def to_batch(pictures: Sequence[Image], spec: InputSpec, *, takes_pixels: bool) -> Batch:
    """Put pictures of one size together as a graph takes them.

    Args:
        pictures: N >= 1 pictures (H, W, 3) uint8 BGR.
        spec: What the model wants to be fed.
        takes_pixels: The graph normalises pixels itself.

    Returns:
        A blob; or the pictures themselves, each where it is: a backend gathers them in the memory it reads anyway.

    Raises:
        ValueError: No picture, or pictures of different sizes, and a blob is wanted. Else backends refuse them.
    """
    if takes_pixels:
        return pictures
    return to_blob(pictures, mean=spec.mean, std=spec.std, channel_order=spec.channel_order)


def take_pixels(parts: GraphParts, spec: InputSpec) -> GraphParts:
    """Return the graph with (N, H, W, 3) uint8 BGR for its input, not annotated; it does what `to_blob` does, in FP32.

    The cast comes first, and alone reads the input: TensorRT takes 8-bit input only to convert it at once.

    Args:
        parts: A checked graph whose one input is (N, 3, H, W) float32; its annotation does not matter.
        spec: What the model wants to be fed.
    """
    name = parts.inputs[0].name
    is_rgb, convolution = spec.channel_order == "rgb", _only_convolution(parts, name)
    weights: dict[str, NDArray[Any]] = {f"{name}/mean": np.array(spec.mean, np.float32)}
    nodes = [make_node("Cast", [name], [f"{name}/float"], to=onnx.TensorProto.FLOAT)]
    if spec.mean:
        nodes.append(make_node("Sub", [nodes[-1].output[0], f"{name}/mean"], [f"{name}/centered"]))
    if convolution is None and spec.std != 1:
        weights[f"{name}/std"] = np.array(spec.std, np.float32)
        nodes.append(make_node("Div", [nodes[-1].output[0], f"{name}/std"], [f"{name}/normalized"]))
    # Last, next to the convolution: one that wants its channels last takes it away with its own.
    nodes.append(make_node("Transpose", [nodes[-1].output[0]], [f"{name}/planes"], perm=[0, 3, 1, 2]))
    if convolution is None and is_rgb:
        weights[f"{name}/rgb"] = np.array([2, 1, 0], np.int64)
        nodes.append(make_node("Gather", [f"{name}/planes", f"{name}/rgb"], [f"{name}/ordered"], axis=1))
    blob = nodes[-1].output[0]
    for node in parts.nodes:
        reader = onnx.NodeProto()
        reader.CopyFrom(node)
        reader.input[:] = [blob if source == name else source for source in node.input]
        if node is convolution:
            kernels = parts.constant(node.input[1])[:, :: -1 if is_rgb else 1]  # type: ignore[index]  # as it was chosen
            reader.input[1] = f"{name}/kernels"
            weights[reader.input[1]] = np.ascontiguousarray(kernels / np.float32(spec.std))
        nodes.append(reader)
    value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None)
    return parts.replace(nodes=nodes, new_weights=weights, inputs=[value])


def _only_convolution(parts: GraphParts, name: str) -> onnx.NodeProto | None:
    """Return the convolution that alone reads an input, in FP32; None where something else does.

    Its kernels (C, 3, H, W) can take channels in any order and of any spread: what costs the pixels a pass each is
    free there.
    """
    readers = [node for node in parts.nodes if name in node.input]
    if len(readers) != 1 or readers[0].op_type != "Conv" or readers[0].input[0] != name:
        return None
    kernels = parts.constant(readers[0].input[1])
    is_known = kernels is not None and kernels.dtype == np.float32 and kernels.shape[1] == 3
    return readers[0] if is_known else None
