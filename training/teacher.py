"""A published ONNX graph as a torch module: frozen, batched, on any device.

ONNX Runtime first folds constants and melts scales and biases into the convolutions; what is left is a dozen kinds of
nodes, each one line here. A detector is read up to its nine convolution maps: the reshapes after them mix the batch
into the anchors.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional


def simplified(path: Path) -> onnx.ModelProto:
    """Load a graph after ONNX Runtime's basic, device-independent optimisations."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "simplified.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(out)
        options.log_severity_level = 3
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(out)


def _pads(attributes: dict[str, Any]) -> int:
    """The one padding of all sides."""
    pads = set(attributes.get("pads", [0]))
    if len(pads) != 1:
        raise ValueError(f"uneven padding {attributes['pads']}")
    return int(pads.pop())


def _conv(inputs: list[Tensor], a: dict[str, Any]) -> Tensor:
    x, weight, *bias = inputs
    groups = x.shape[1] // weight.shape[1]
    return functional.conv2d(x, weight, bias[0] if bias else None, a["strides"], _pads(a), groups=groups)


def _written_out(weight: np.ndarray, groups: int) -> np.ndarray:
    """The weights of a convolution in few-channel groups as one without groups, zeros between: faster on a GPU."""
    if groups == 1 or weight.shape[1] == 1:
        return weight
    outputs, inputs, *kernel = weight.shape
    dense = np.zeros((outputs, groups * inputs, *kernel), weight.dtype)
    for group, rows in enumerate(np.split(np.arange(outputs), groups)):
        dense[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return dense


def _average(inputs: list[Tensor], a: dict[str, Any]) -> Tensor:
    return functional.avg_pool2d(inputs[0], a["kernel_shape"], a["strides"], _pads(a), ceil_mode=bool(a["ceil_mode"]))


def _norm(inputs: list[Tensor], a: dict[str, Any]) -> Tensor:
    x, weight, bias, mean, variance = inputs
    return functional.batch_norm(x, mean, variance, weight, bias, eps=a["epsilon"])


OPERATORS: dict[str, Callable[[list[Tensor], dict[str, Any]], Tensor]] = {
    "Conv": _conv,
    "Relu": lambda i, _: torch.relu(i[0]),
    "PRelu": lambda i, _: functional.prelu(i[0], i[1].flatten()),
    "Add": lambda i, _: i[0] + i[1],
    "MaxPool": lambda i, a: functional.max_pool2d(i[0], a["kernel_shape"], a["strides"], _pads(a)),
    "AveragePool": _average,
    "Resize": lambda i, _: functional.interpolate(i[0], scale_factor=2.0, mode="nearest"),
    "Flatten": lambda i, _: i[0].flatten(1),
    "Gemm": lambda i, a: functional.linear(i[0], i[1] if a["transB"] else i[1].T, i[2]),
    "BatchNormalization": _norm,
}


class Teacher(nn.Module):
    """Runs the nodes of a graph in their order, up to the tensors asked for."""

    def __init__(self, graph: onnx.GraphProto, wanted: list[str]) -> None:
        """Keep the nodes that `wanted` needs and register the weights as buffers.

        Raises:
            ValueError: A needed node is of a kind that is not known here.
        """
        super().__init__()
        self.input_name = graph.input[0].name
        self.wanted = wanted
        needed, kept = set(wanted), []
        for node in reversed(graph.node):
            if node.output[0] in needed:
                if node.op_type not in OPERATORS:
                    raise ValueError(f"no {node.op_type} here")
                kept.append(node)
                needed.update(node.input[:1] if node.op_type == "Resize" else node.input)
        self.nodes = [
            (n.op_type, list(n.input), n.output[0], {a.name: helper.get_attribute_value(a) for a in n.attribute})
            for n in reversed(kept)
        ]
        self.buffer_by_name: dict[str, str] = {}
        groups = {inputs[1]: a.get("group", 1) for kind, inputs, _, a in self.nodes if kind == "Conv"}
        for index, weight in enumerate(w for w in graph.initializer if w.name in needed):
            array = _written_out(np.array(numpy_helper.to_array(weight)), groups.get(weight.name, 1))
            self.buffer_by_name[weight.name] = f"weight{index}"
            self.register_buffer(f"weight{index}", torch.from_numpy(array))

    @torch.no_grad()
    def forward(self, blob: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in the graph's own normalisation to the wanted tensors, in their order."""
        values = {name: getattr(self, buffer) for name, buffer in self.buffer_by_name.items()}
        values[self.input_name] = blob
        for kind, inputs, output, attributes in self.nodes:
            values[output] = OPERATORS[kind]([values[i] for i in inputs if i in values], attributes)
        return [values[name] for name in self.wanted]


def load_recognizer(path: Path) -> Teacher:
    """A recogniser: its one output is the embedding (N, 512), not normalised."""
    graph = simplified(path).graph
    return Teacher(graph, [graph.output[0].name]).eval()


def load_detector(path: Path) -> Teacher:
    """A detector: score logits, boxes, landmarks, each for strides 8, 16, 32, as maps (N, 2 | 8 | 20, h, w)."""
    graph = simplified(path).graph
    source = {node.output[0]: node for node in graph.node}
    maps = []
    for output in graph.output:
        name = output.name
        while source[name].op_type in ("Reshape", "Sigmoid", "Transpose"):
            name = source[name].input[0]
        maps.append(name)
    return Teacher(graph, maps).eval()
