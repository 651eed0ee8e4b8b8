"""Whether a provider of ONNX Runtime starts: it names providers that it cannot start, and then takes the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from app.backends.providers import CPU, short_name

_FATAL = 4
"""ONNX Runtime's log severity."""


def provider_fault(provider: str) -> str | None:
    """Run a graph of one node with a provider; return why that fails, None when it does not.

    Args:
        provider: Its full name, one of `available_providers`.
    """
    import onnxruntime  # noqa: PLC0415 - see app.backends.onnx

    if provider != CPU and hasattr(onnxruntime, "preload_dlls"):
        # Finds the CUDA libraries that pip installed, for this and all later sessions; prints what it does not find.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    try:
        session = onnxruntime.InferenceSession(_identity(), options, providers=[provider], enable_fallback=0)
        session.run(None, {"x": np.zeros(1, np.float32)})
    # The exception classes of ONNX Runtime derive from Exception alone.
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return str(error)
    if provider in session.get_providers():
        return None
    return _library_fault(provider) or "ONNX Runtime leaves it out and does not say why"


def _identity() -> bytes:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _library_fault(provider: str) -> str | None:
    """Load a provider's library alone; return what the loader misses, None when it misses nothing."""
    spec = importlib.util.find_spec("onnxruntime")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    library = folder / "capi" / f"libonnxruntime_providers_{short_name(provider)}.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        # Alone it lacks what ONNX Runtime gives it; the loader looks for libraries before it looks for functions.
        return None if "Provider_GetHost" in str(error) else str(error)
    return None
