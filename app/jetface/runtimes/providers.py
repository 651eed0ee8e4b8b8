"""Execution providers of ONNX Runtime: which to use, and whether one starts."""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from onnx import TensorProto, helper

from jetface.device.checks import runtime_library
from jetface.device.faults import recognize
from jetface.errors import BackendUnavailableError

_log = structlog.get_logger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_BEST_FIRST = (CUDA, CPU)
"""What `auto` looks for. TensorRT's and OpenVINO's providers are used when named: the first builds engines while
requests wait, the second is slower here than the OpenVINO backend of our own."""

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorrtOptions:
    """How ONNX Runtime's TensorRT provider builds and keeps its engines."""

    fp16: bool = True
    """Let TensorRT run layers in half precision."""
    cache_dir: Path | None = None
    """Folder of built engines; None builds them at each start, minutes at a time."""
    dla_core: int = -1
    """Deep learning accelerator of a Jetson to run on, the GPU taking what it cannot; -1: the GPU alone."""

    def as_provider_options(self) -> dict[str, str]:
        """Return them by the provider's names. Source: ONNX Runtime, `tensorrt_provider_options.h`."""
        options = {"trt_fp16_enable": str(int(self.fp16))}
        if self.cache_dir is not None:
            # The provider uses an engine of another version of itself without a look: each has its own folder.
            folder = str(self.cache_dir / f"onnxruntime-{'.'.join(map(str, runtime_version()))}")
            options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder}
            options |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": folder}
        if self.dla_core >= 0:
            options |= {"trt_dla_enable": "1", "trt_dla_core": str(self.dla_core)}
        return options


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaOptions:
    """How ONNX Runtime's CUDA provider runs a graph. TF32 stays on, as it is by default."""

    memory_limit_bytes: int = 0
    """Most memory of the device for a session, its buffers aside; 0: no limit."""
    prefers_nhwc: bool = False
    """Whether convolutions see their channels last; see `may_prefer_nhwc`."""
    uses_graphs: bool = False
    """Whether runs may be captured in CUDA graphs."""
    stream: int | None = None
    """Handle of the stream that all work goes to; None lets the provider make its own."""

    def as_provider_options(self) -> dict[str, str]:
        """Return them by the provider's names. Source: ONNX Runtime, `cuda_execution_provider_info.cc`."""
        options = {
            # The default searches exhaustively for each new shape, seconds at a time.
            "cudnn_conv_algo_search": "HEURISTIC",
            # The default doubles the arena with each extension.
            "arena_extend_strategy": "kSameAsRequested",
            "do_copy_in_default_stream": "1",
            "cudnn_conv_use_max_workspace": "1",
        }
        if self.memory_limit_bytes:
            options["gpu_mem_limit"] = str(self.memory_limit_bytes)
        if self.prefers_nhwc:
            options["prefer_nhwc"] = "1"
        if self.uses_graphs:
            options["enable_cuda_graph"] = "1"
        if self.stream is not None:
            options["user_compute_stream"] = str(self.stream)
        return options


def runtime_version() -> tuple[int, ...]:
    """Return ONNX Runtime's version, such as (1, 31, 1), without importing it; (0,) when it is not installed."""
    for name in _DISTRIBUTIONS:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return tuple(int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit())
    return (0,)


def available_providers() -> tuple[str, ...]:
    """Return the execution providers this build of ONNX Runtime has, in its order of preference.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed or cannot be loaded.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - it is slow to load, and on some devices must never be
    # A build for another NumPy raises AttributeError or SystemError.
    except Exception as cause:
        what = "ONNX Runtime cannot be imported"
        fault = recognize(str(cause))
        if fault is None or isinstance(cause, ModuleNotFoundError):
            cure = "install `onnxruntime`, or `onnxruntime-gpu` for NVIDIA GPUs."
            raise BackendUnavailableError(f"{what}; {cure}") from cause
        raise BackendUnavailableError(
            f"{what}: {fault.why}. {fault.cure}", what=what, why=fault.why, cure=fault.cure
        ) from cause
    return tuple(onnxruntime.get_available_providers())


def choose_providers(requested: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """Decide on the execution providers, in order, the CPU's last.

    Args:
        requested: Providers the operator names; empty, or `auto` alone, for the best at hand. Names are understood
            with or without `ExecutionProvider`, in any case.
        available: What `available_providers` says.

    Raises:
        BackendUnavailableError: A named provider is not available; says what is and how to mend it.
    """
    if [name.lower() for name in requested] in ([], ["auto"]):
        chosen = tuple(name for name in _BEST_FIRST if name in available)
        _log.info("execution providers chosen", chosen=chosen, available=tuple(available))
        if CUDA not in chosen and has_gpu_build():
            _log.warning("onnxruntime-gpu is installed but offers no CUDA provider: models run on the CPU")
        return chosen
    known = {short_name(name): name for name in available}
    missing = [name for name in requested if short_name(name) not in known]
    if missing:
        raise BackendUnavailableError(
            f"ORT_PROVIDERS asks for {', '.join(missing)}, but this ONNX Runtime has only "
            f"{', '.join(available)}. Install the build of ONNX Runtime that brings it (`onnxruntime-gpu` for CUDA and "
            "TensorRT), or take it out of ORT_PROVIDERS."
        )
    return tuple(dict.fromkeys([*(known[short_name(name)] for name in requested), CPU]))


def provider_options(
    provider: str, *, tensorrt: TensorrtOptions | None = None, cuda: CudaOptions | None = None
) -> Mapping[str, Any]:
    """Return the options a session gives a provider.

    Args:
        provider: Its full name.
        tensorrt: For the TensorRT provider; None for its defaults here.
        cuda: For the CUDA provider; None for its defaults here.
    """
    if provider == TENSORRT:
        return (tensorrt or TensorrtOptions()).as_provider_options()
    return (cuda or CudaOptions()).as_provider_options() if provider == CUDA else {}


def has_gpu_build() -> bool:
    """Whether the build of ONNX Runtime for NVIDIA GPUs is installed, working or not."""
    return any(True for _ in metadata.distributions(name="onnxruntime-gpu"))


def short_name(name: str) -> str:
    """Return what people call a provider: `cpu`, `cuda`, `tensorrt`, ..."""
    return name.lower().removesuffix("executionprovider")


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
    import onnxruntime  # noqa: PLC0415 - see jetface.runtimes.onnx

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
