"""Whether convolutions on a GPU run with their channels last."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError


def may_prefer_nhwc(model: bytes | Path, compute_capability: tuple[int, int]) -> bool:
    """Tell whether channels last (NHWC) pay: IResNet runs 1.2 to 1.4 times as fast where tensor cores do TF32.

    Not where convolutions have groups, as det_500m and MobileFaceNet have: channels last gain little (2.0 for 2.1 ms,
    eight canvases of 640x640 by det_500m, its heads merged), and cuDNN plans each shape for nearly twice as long (2.7
    for 1.6 s, by a script that is not kept).

    Never with FP16 in the graph: ONNX Runtime 1.31.1 then ends the whole process with "terminate called without an
    active exception", on the BatchNormalization of a matrix that ends IResNet (`tests/device/nhwc_fp16.py` found it).

    Measured on an H200 (`tests/device/graphs.py`). TF32 came with compute capability 8.0.

    Args:
        model: A prepared graph, serialized or in a file; of one that cannot be read, opening it says what is wrong.
        compute_capability: Of the device.
    """
    if compute_capability < (8, 0):
        return False
    try:
        graph = onnx.load_model_from_string(model if isinstance(model, bytes) else model.read_bytes()).graph
    except (OSError, DecodeError):
        return False
    half = onnx.TensorProto.FLOAT16
    attributes = [(node.op_type, attribute.name, attribute.i) for node in graph.node for attribute in node.attribute]
    has_groups = any(op == "Conv" and name == "group" and groups > 1 for op, name, groups in attributes)
    casts_to_half = ("Cast", "to", half) in attributes
    return not has_groups and not casts_to_half and all(weight.data_type != half for weight in graph.initializer)
