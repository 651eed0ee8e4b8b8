"""What libraries say when something is wrong, word for word, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.device.faults import Fault, explain, recognize, why_not_opened
from jetface.errors import ModelFileError
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import arcface_model

NUMPY = """
A module that was compiled using NumPy 1.x cannot be run in
NumPy 2.2.6 as it may crash. To support both 1.x and 2.x
versions of NumPy, modules must be compiled with NumPy 2.0.
"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("libnvdla_compiler.so: cannot open shared object file: No such file or directory", "libnvdla_compiler.so is"),
        ("/usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so: file too short", "libnvdla_compiler.so is"),
        ("libnvinfer.so.10: cannot open shared object file: No such file or directory", "its libraries are not"),
        ("libnvonnxparser.so.10: cannot open shared object file: No such file or directory", "its libraries are not"),
        ("libcuda.so.1: cannot open shared object file: No such file or directory", "the driver's library"),
        ("libcudart.so.12: cannot open shared object file: No such file or directory", "one of its libraries"),
        (
            "Failed to load library libonnxruntime_providers_cuda.so with error: libcudnn_adv.so.9: cannot open shared",
            "one of its libraries",
        ),
        (
            "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.12: cannot open shared",
            "one of its libraries",
        ),
        (
            "Error Code 6: Internal Error (CUDA initialization failure with error: 35. Please check your CUDA install",
            "older than the CUDA libraries",
        ),
        (
            "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version)",
            "older than the CUDA libraries",
        ),
        ("cudaFree: cudaErrorInsufficientDriver, CUDA driver version is insufficient", "older than the CUDA libraries"),
        ("CUDA initialization failure with error: 100", "no GPU that this process may use"),
        ("cudaErrorNoDevice, no CUDA-capable device is detected", "no GPU that this process may use"),
        ("CUDA failure 802: system not yet initialized ; GPU=0", "fabric manager"),
        ("cudaErrorNoKernelImageForDevice: no kernel image is available for execution on the device", "no kernels for"),
        (
            "Error Code 9: API Usage Error (Target GPU SM 53 is not supported by this TensorRT release.)",
            "no kernels for",
        ),
        (NUMPY, "built for NumPy 1"),
        ("_ARRAY_API not found", "built for NumPy 1"),
        ("numpy.core.multiarray failed to import", "built for NumPy 1"),
        ("No module named 'tensorrt'", "it is not installed"),
        ("No module named 'cuda'", "cuda-python is not installed"),
        ("No module named 'cuda.bindings'", "cuda-python is not installed"),
        ("Error Code 2: OutOfMemory (Requested size was 4194304000 bytes.)", "something else uses it"),
        ("[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)", "something else uses it"),
        ("FAILED_ALLOCATION: std::bad_alloc", "something else uses it"),
    ],
)
def test_a_message_of_a_library_is_recognized(text: str, why: str) -> None:
    fault = recognize(text)
    assert fault is not None
    assert why in fault.why
    assert fault.cure
    assert fault.is_memory == ("something else" in why)
    assert "\n" not in fault.sentence
    assert fault.sentence.endswith(".")


@pytest.mark.parametrize(
    "text",
    ["", "Error Code 350: x", "No module named 'tensors'", "Could not find any implementation for node Conv_100."],
)
def test_what_is_not_known_is_not_guessed(text: str) -> None:
    assert recognize(text) is None


@given(st.text())
def test_what_is_not_known_is_told_in_its_own_words_on_one_line(text: str) -> None:
    fault = explain(text, what="It fails")
    assert isinstance(fault, Fault)
    assert fault.why.strip()
    if recognize(text) is None:
        assert fault.what == "It fails"
        assert fault.why.split() == (text.split() or ["no", "reason", "was", "given"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: setattr(model, "ir_version", 99), r"ONNX IR version 99 and this ONNX Runtime reads \d+"),
        (lambda model: setattr(model.opset_import[0], "version", 99), "of opset 99, newer than .* Update onnxruntime"),
        (lambda model: setattr(model.graph.node[0], "op_type", "Foo"), "its operator Foo is not in opset"),
        (
            lambda model: (
                model.opset_import.append(onnx.helper.make_opsetid("odd", 3)),
                model.graph.node[0].MergeFrom(onnx.NodeProto(domain="odd")),
            ),
            r"its operator odd:\w+ is none of ONNX's own",
        ),
    ],
    ids=["ir", "opset", "operator", "domain"],
)
def test_a_graph_that_is_too_new_is_named_with_its_cure(change: Callable[[onnx.ModelProto], object], said: str) -> None:
    model = onnx.load_from_string(arcface_model())
    change(model)
    with pytest.raises(ModelFileError, match=rf"ONNX Runtime cannot open the model: .*{said}") as caught:
        open_onnx_backends(model.SerializeToString())
    assert caught.value.__cause__ is not None


def test_a_file_that_is_no_graph_is_named() -> None:
    with pytest.raises(ModelFileError, match="not ONNX, or damaged"):
        open_onnx_backends(b"not a graph")


def test_what_is_not_known_of_a_model_is_not_made_up() -> None:
    assert why_not_opened("the moon is in the wrong house") == "."
    assert "DET_BATCH_SIZE" in why_not_opened("CUDA failure 2: out of memory")
