"""Real ONNX graphs of a few nodes, shaped as the families' exports are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jetface.registry import InputSpec, ModelSpec

EMBEDDING_LENGTH = 4

_OPSET = 11
"""What InsightFace's exports use."""


def arcface_spec(*, length: int = EMBEDDING_LENGTH, side_px: int = 112) -> ModelSpec:
    """Return an entry that fits `arcface_model`; its digest fits nothing."""
    size = InputSpec(height_px=side_px, width_px=side_px, mean=127.5, std=127.5)
    return _spec("tiny_arcface", size, length)


def scrfd_spec(*, canvas_hw: tuple[int, int] = (0, 0)) -> ModelSpec:
    """Return an entry that fits `scrfd_model`; its digest fits nothing."""
    return _spec("tiny_scrfd", InputSpec(height_px=canvas_hw[0], width_px=canvas_hw[1], mean=127.5, std=128), None)


def arcface_model(
    *,
    batch: int | str = "N",
    length: int = EMBEDDING_LENGTH,
    declared_length: int | str | None = None,
    element_type: int = TensorProto.FLOAT,
    slopes: Sequence[float] = (0.25, -0.5, 1.5),
    seed: int = 0,
) -> bytes:
    """Return a recognizer: convolution, PRelu, pooling, flatten, matrix product.

    Args:
        batch: What the input says of its batch.
        length: Of the embedding.
        declared_length: What the output says it is, with a batch of 1 as some exports have it.
        element_type: Of the input; a cast follows when it is not float32.
        slopes: Of the PRelu, one a channel.
        seed: Of the weights.
    """
    rng = np.random.default_rng(seed)
    weights = {
        "kernel": rng.normal(0, 0.5, (len(slopes), 3, 3, 3)).astype(np.float32),
        "slopes": np.array(slopes, np.float32).reshape(-1, 1, 1),
        "matrix": rng.normal(0, 1, (len(slopes) * 4, length)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["data", "kernel"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["maps", "slopes"], ["bent"]),
        helper.make_node("AveragePool", ["bent"], ["pooled"], kernel_shape=[56, 56], strides=[56, 56]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
    ]
    if element_type != TensorProto.FLOAT:
        nodes = [helper.make_node("Cast", ["data"], ["cast"], to=TensorProto.FLOAT), *nodes]
        nodes[1].input[0] = "cast"
    return model(
        nodes,
        weights,
        [helper.make_tensor_value_info("data", element_type, [batch, 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, declared_length or length])],
    )


def scrfd_model(
    *,
    canvas_hw: tuple[int | str, int | str] = ("?", "?"),
    batch: int | str = 1,
    perm: Sequence[int] = (2, 3, 0, 1),
    rows: Sequence[int] = (-1,),
    fixed_upsample: bool = False,
    num_levels: int = 3,
) -> bytes:
    """Return a detector with the trunk and the tail of SCRFD's exports: 9 outputs, two anchors a cell.

    Args:
        canvas_hw: What the input says of its size.
        batch: What the input says of its batch.
        perm: Of the transposition before each output.
        rows: Target of the Reshape after it, less the columns: (-1,) is 2-D, (1, -1) and (0, -1) are 3-D.
        fixed_upsample: Resize to numbers fixed at export, for a canvas of 64x64, instead of those of another map.
        num_levels: Strides; SCRFD has 3.
    """
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {
        "none": np.zeros(0, np.float32),
        "two": np.array(2, np.int64),
        "three": np.array(3, np.int64),
        "from": np.array([0], np.int64),
        "to": np.array([2], np.int64),
        "sizes_64": np.array([1, 4, 8, 8], np.int64),
        "slopes": np.full((4, 1, 1), 0.25, np.float32),
    }
    nodes = []
    maps = "input.1"
    for level in range(num_levels):
        kernel, stride = (8, 8) if level == 0 else (2, 2)
        weights[f"trunk_{level}"] = rng.normal(0, 0.2, (4, 3 if level == 0 else 4, kernel, kernel)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [maps, f"trunk_{level}"], [f"conv_{level}"], strides=[stride] * 2))
        nodes.append(helper.make_node("PRelu", [f"conv_{level}", "slopes"], [f"level_{level}"]))
        maps = f"level_{level}"
    if num_levels > 1:
        nodes += _upsample("level_1", "level_0", is_fixed=fixed_upsample)
    outputs = []
    for kind, columns in (("score", 1), ("box", 4), ("landmark", 10)):
        for level in range(num_levels):
            source = "merged" if level == 0 and num_levels > 1 else f"level_{level}"
            name = f"{kind}_{level}"
            weights[f"head_{name}"] = rng.normal(0, 0.5, (2 * columns, 4, 1, 1)).astype(np.float32)
            weights[f"rows_{columns}"] = np.array([*rows, columns], np.int64)
            nodes += [
                helper.make_node("Conv", [source, f"head_{name}"], [f"{name}_maps"]),
                helper.make_node("Transpose", [f"{name}_maps"], [f"{name}_turned"], perm=list(perm)),
                helper.make_node(
                    "Reshape", [f"{name}_turned", f"rows_{columns}"], [f"{name}_rows" if kind == "score" else name]
                ),
            ]
            if kind == "score":
                nodes.append(helper.make_node("Sigmoid", [f"{name}_rows"], [name]))
            # Annotated for a canvas of 640x640, as the official files are.
            anchors = 2 * (80 >> level) ** 2
            shape = [anchors, columns] if len(rows) == 1 else [1, anchors, columns]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    inputs = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [batch, 3, *canvas_hw])]
    return model(nodes, weights, inputs, outputs)


def yunet_model(*, canvas_hw: tuple[int, int] = (64, 96), seed: int = 0) -> bytes:
    """Return a detector that answers as YuNet's exports of 2023 do: 12 outputs by name, one anchor a cell.

    Args:
        canvas_hw: The size it is fixed to, multiples of 32.
        seed: Of the weights.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    nodes = []
    maps = "input"
    for stride in (8, 16, 32):
        kernel = 8 if stride == 8 else 2
        shape = (4, 3 if stride == 8 else 4, kernel, kernel)
        # Pixels come as 0..255: the first convolution brings them to about 1.
        weights[f"trunk_{stride}"] = rng.normal(0, 0.0003 if stride == 8 else 0.4, shape).astype(np.float32)
        nodes.append(
            helper.make_node(
                "Conv", [maps, f"trunk_{stride}"], [f"maps_{stride}"], kernel_shape=[kernel] * 2, strides=[kernel] * 2
            )
        )
        maps = f"maps_{stride}"
    outputs = []
    for kind, columns in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        weights[f"rows_{columns}"] = np.array([1, -1, columns], np.int64)
        # Boxes of some 2.7 cells, so that neighbours overlap.
        weights[f"bias_{kind}"] = np.array([0, 0, 1, 1] if kind == "bbox" else [0] * columns, np.float32)
        for stride in (8, 16, 32):
            name, is_score = f"{kind}_{stride}", columns == 1
            weights[f"head_{name}"] = rng.normal(0, 0.3, (columns, 4, 1, 1)).astype(np.float32)
            nodes += [
                helper.make_node(
                    "Conv", [f"maps_{stride}", f"head_{name}", f"bias_{kind}"], [f"{name}_maps"], kernel_shape=[1, 1]
                ),
                helper.make_node("Transpose", [f"{name}_maps"], [f"{name}_turned"], perm=[0, 2, 3, 1]),
                helper.make_node(
                    "Reshape", [f"{name}_turned", f"rows_{columns}"], [f"{name}_rows" if is_score else name]
                ),
            ]
            if is_score:
                nodes.append(helper.make_node("Sigmoid", [f"{name}_rows"], [name]))
            anchors = (canvas_hw[0] // stride) * (canvas_hw[1] // stride)
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, anchors, columns]))
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, *canvas_hw])]
    return model(nodes, weights, inputs, outputs)


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    *,
    opset: int = _OPSET,
) -> bytes:
    """Return a serialized model of these parts."""
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), tensors)
    imports = [helper.make_opsetid("", opset)]
    ir_version = 6 if opset == _OPSET else 9
    serialized: bytes = helper.make_model(graph, opset_imports=imports, ir_version=ir_version).SerializeToString()
    return serialized


def _upsample(small: str, like: str, *, is_fixed: bool) -> list[onnx.NodeProto]:
    """Return the nodes PyTorch writes for `like + interpolate(small, size of like)`, into `merged`."""
    make = helper.make_node
    return [
        make("Shape", [like], ["shape_h"]),
        make("Gather", ["shape_h", "two"], ["h"], axis=0),
        make("Unsqueeze", ["h"], ["h1"], axes=[0]),
        make("Shape", [like], ["shape_w"]),
        make("Gather", ["shape_w", "three"], ["w"], axis=0),
        make("Unsqueeze", ["w"], ["w1"], axes=[0]),
        make("Shape", [small], ["shape_small"]),
        make("Slice", ["shape_small", "from", "to", "from"], ["nc"]),
        make("Concat", ["nc", "h1", "w1"], ["sizes"], axis=0),
        make(
            "Resize", [small, "none", "none", "sizes_64" if is_fixed else "sizes"], ["upsampled"], mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        ),
        make("Add", [like, "upsampled"], ["merged"]),
    ]  # fmt: skip


def _spec(name: str, size: InputSpec, length: int | None) -> ModelSpec:
    return ModelSpec(
        name=name,
        task="recognition" if length else "detection",
        family="arcface" if length else "scrfd",
        license="none",
        source="built in code",
        sha256="0" * 64,
        embedding_length=length,
        input=size,
    )
