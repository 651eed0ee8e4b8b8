"""A recognizer built as ArcFace's IResNets are, a block a stage and few channels: every operator they have."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.support.tiny_onnx import model

_CHANNELS = (8, 8, 16, 16, 32)
"""Of the stem and of the four stages."""


def iresnet_model(*, length: int = 32, seed: int = 0) -> bytes:
    """Return a graph with input `data`, (N, 3, 112, 112), and output `embedding`, (N, length).

    Blocks: normalization, convolution, normalization, PReLU, convolution of stride 2, normalization, and a shortcut by
    a convolution of 1x1. Head: normalization, flatten, matrix product, normalization. Source: Duta et al. 2020.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, source: str, *arrays: np.ndarray, to: str | None = None, **attributes: Any) -> str:
        name = to or f"t{len(nodes)}"
        names = [f"{name}_{index}" for index in range(len(arrays))]
        weights.update(zip(names, arrays, strict=True))
        nodes.append(helper.make_node(kind, [source, *names], [name], name=f"{kind}_{len(nodes)}", **attributes))
        return name

    def conv(source: str, inner: int, outer: int, kernel: int, stride: int) -> str:
        scale = np.sqrt(2 / (inner * kernel**2))
        weight = rng.normal(0, scale, (outer, inner, kernel, kernel)).astype(np.float32)
        return add(
            "Conv", source, weight, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4
        )  # fmt: skip

    def norm(source: str, count: int, to: str | None = None) -> str:
        ones, zeros = np.ones(count, np.float32), np.zeros(count, np.float32)
        return add("BatchNormalization", source, ones, zeros, zeros, ones, to=to, epsilon=1e-5)

    def prelu(source: str, count: int) -> str:
        return add("PRelu", source, np.full((count, 1, 1), 0.25, np.float32))

    maps = prelu(norm(conv("data", 3, _CHANNELS[0], 3, 1), _CHANNELS[0]), _CHANNELS[0])
    for inner, outer in pairwise(_CHANNELS):
        inside = prelu(norm(conv(norm(maps, inner), inner, outer, 3, 1), outer), outer)
        inside = norm(conv(inside, outer, outer, 3, 2), outer)
        shortcut = norm(conv(maps, inner, outer, 1, 2), outer)
        nodes.append(helper.make_node("Add", [inside, shortcut], [f"t{len(nodes)}"], name=f"Add_{len(nodes)}"))
        maps = nodes[-1].output[0]
    flat = add("Flatten", norm(maps, _CHANNELS[-1]))
    count = _CHANNELS[-1] * 7 * 7
    matrix = rng.normal(0, count**-0.5, (length, count)).astype(np.float32)
    product = add("Gemm", flat, matrix, np.zeros(length, np.float32), transB=1)
    norm(product, length, to="embedding")
    return model(
        nodes,
        weights,
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", length])],
    )
