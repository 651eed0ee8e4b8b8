"""Whether a provider of ONNX Runtime starts: it names providers that it cannot start, and then takes the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import io

import numpy as np
from onnx import TensorProto, helper

from jetface.backends.providers import CPU, short_name
from jetface.device.package_checks import runtime_library

_FATAL = 4
"""ONNX Runtime's log severity."""
_TWO = 2.0


def provider_fault(provider: str) -> str | None:
    """Run a graph of one node with a provider; return why that fails, None when it does not.

    The node adds, which takes a kernel: a GPU that the library has no kernels for is found here. What only copies, as
    Identity does, would run on it.

    Args:
        provider: Its full name, one of `available_providers`.
    """
    import onnxruntime  # noqa: PLC0415 - see jetface.backends.onnx

    if provider != CPU and hasattr(onnxruntime, "preload_dlls"):
        # Finds the CUDA libraries that pip installed, for this and all later sessions; prints what it does not find.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    try:
        session = onnxruntime.InferenceSession(_addition(), options, providers=[provider], enable_fallback=0)
        (total,) = session.run(None, {"x": np.ones(1, np.float32)})
    # The exception classes of ONNX Runtime derive from Exception alone.
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return str(error)
    if provider in session.get_providers():
        # A launch whose failure nobody asked for leaves what was in memory.
        return None if total[0] == _TWO else f"it adds 1 and 1 and gets {total[0]:g}"
    return _library_fault(provider) or "ONNX Runtime leaves it out and does not say why"


def _addition() -> bytes:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "addition", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _library_fault(provider: str) -> str | None:
    """Load a provider's library alone; return what the loader misses, None when it misses nothing."""
    try:
        ctypes.CDLL(str(runtime_library(short_name(provider))))
    except OSError as error:
        # Alone it lacks what ONNX Runtime gives it; the loader looks for libraries before it looks for functions.
        return None if "Provider_GetHost" in str(error) else str(error)
    return None
