"""Models that half precision breaks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.support.tiny_onnx import arcface_model, model, scrfd_model


def overflowing_model() -> bytes:
    """Return a recognizer whose inner values are beyond 65504, where half precision ends; its answers are not."""
    return _scaled(arcface_model(), {"kernel": 1e5, "matrix": 1e-5})


def overflowing_detector() -> bytes:
    """Return a detector of that kind."""
    heads = {f"head_{kind}_{level}": 1e-6 for kind in ("score", "box", "landmark") for level in range(3)}
    return _scaled(scrfd_model(), {"trunk_0": 1e6, **heads})


def _scaled(serialized: bytes, factors: Mapping[str, float]) -> bytes:
    """Multiply weights by name."""
    built = onnx.load_model_from_string(serialized)
    for weight in built.graph.initializer:
        if weight.name in factors:
            values = onnx.numpy_helper.to_array(weight) * np.float32(factors[weight.name])
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    scaled: bytes = built.SerializeToString()
    return scaled


def offset_model(offset: float) -> bytes:
    """Return a recognizer that adds a number to its maps and takes it off again."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["data", "kernel"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["maps", "offset"], ["far"]),
        helper.make_node("Sub", ["far", "offset"], ["back"]),
        helper.make_node("AveragePool", ["back"], ["pooled"], kernel_shape=[56, 56], strides=[56, 56]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
    ]
    weights = {
        "kernel": rng.normal(0, 0.5, (3, 3, 3, 3)).astype(np.float32),
        "offset": np.full(1, offset, np.float32),
        "matrix": rng.normal(0, 1, (12, 4)).astype(np.float32),
    }
    ends = [
        helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 112, 112]),
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 4]),
    ]
    return model(nodes, weights, ends[:1], ends[1:])


def dazzled_model(most_brightness: float) -> bytes:
    """Return a recognizer whose answer to crops of a higher mean, 0 black to 1 white, is not a number."""
    built = onnx.load_model_from_string(arcface_model(length=128))
    last = built.graph.node[-1]
    last.output[0] = "seen"
    built.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["data"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Unsqueeze", ["mean"], ["column"], axes=[1]),
            helper.make_node("Sub", ["most", "column"], ["below"]),
            helper.make_node("Log", ["below"], ["logarithm"]),
            helper.make_node("Mul", ["logarithm", "nothing"], ["zero"]),
            helper.make_node("Add", ["seen", "zero"], ["embedding"]),
        ]
    )
    for name, value in (("most", 2 * most_brightness - 1), ("nothing", 0.0)):
        built.graph.initializer.append(onnx.numpy_helper.from_array(np.full(1, value, np.float32), name))
    serialized: bytes = built.SerializeToString()
    return serialized
