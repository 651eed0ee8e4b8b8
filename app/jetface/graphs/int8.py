"""ONNX Runtime's quantizer: ranges from pictures, then QDQ nodes around operators. It runs on the CPU."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import onnx

from jetface.domain import Batch
from jetface.runtimes.providers import CPU

_PERCENTILE = 99.99
"""Share of the values of a tensor that its range holds, percent. Source: docs/adr/0030-int8-graphs.md."""

_OPSET = 17
"""Of quantized graphs: scales for each channel need 13; TensorRT 10.3 and ONNX Runtime 1.16 know all of 17."""


def quantize_onnx(serialized: bytes, batches: Iterable[Batch], *, operators: Sequence[str]) -> tuple[bytes, bytes]:
    """Quantize operators: activations by tensor, weights by channel, both symmetric INT8.

    Args:
        serialized: A prepared graph in FP32.
        batches: What its input is fed to take ranges from, at least one.
        operators: Types of operators that are quantized.

    Returns:
        The graph with its constants folded and its nodes named, and the same graph quantized, nodes of the same names.
        Errors are whatever the library raises for a graph that it does not understand.
    """
    # The library says what it does on standard output.
    with tempfile.TemporaryDirectory(prefix="jetface-int8-") as folder, contextlib.redirect_stdout(io.StringIO()):
        return _quantized(serialized, batches, operators, Path(folder))


def _quantized(
    serialized: bytes, batches: Iterable[Batch], operators: Sequence[str], folder: Path
) -> tuple[bytes, bytes]:
    import onnxruntime  # noqa: PLC0415 - see jetface.runtimes.onnx
    from onnxruntime.quantization import (  # noqa: PLC0415 - as above
        CalibrationMethod,
        QDQQuantizer,
        QuantType,
        create_calibrator,
    )

    file = folder / "full.onnx"
    model = onnx.load_from_string(serialized)
    if max(entry.version for entry in model.opset_import) < _OPSET:
        model = onnx.version_converter.convert_version(model, _OPSET)
    # Additions of constants and normalizations become part of the convolutions before them.
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(file)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    model = onnx.shape_inference.infer_shapes(onnx.load(file))
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
    onnx.save(model, file)
    calibrator = create_calibrator(
        file, list(operators), augmented_model_path=str(folder / "observed.onnx"),
        calibrate_method=CalibrationMethod.Percentile,
        extra_options={"percentile": _PERCENTILE, "symmetric": True},
    )  # fmt: skip
    for batch in batches:
        # One at a time: what it observes of each it keeps until the end of the call.
        feeds = iter([{model.graph.input[0].name: batch}])
        calibrator.collect_data(SimpleNamespace(get_next=partial(next, feeds, None)))
    full = model.SerializeToString()
    quantizer = QDQQuantizer(
        model, per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8, activation_qType=QuantType.QInt8,
        tensors_range=calibrator.compute_data(), nodes_to_quantize=[], nodes_to_exclude=[],
        op_types_to_quantize=list(operators),
        extra_options={
            # TensorRT knows no other zero point than 0, and takes no INT32.
            "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
            # What a convolution answers is rounded once: after what follows it, where the next one reads it.
            "OpTypesToExcludeOutputQuantization": list(operators),
        },
    )  # fmt: skip
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return full, quantizer.model.model.SerializeToString()
