"""Sessions of ONNX Runtime alone, on buffers that stay on the device: no copies, nothing allocated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetface.runtimes.onnx_cuda import NO_GRAPH, CudaSetup, run_options
from jetface.runtimes.providers import CPU, CUDA
from tests.device.report import Report

RAW_OPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "NCHW": {},
        "NHWC": {"prefer_nhwc": "1"},
        "NCHW in a CUDA graph": {"enable_cuda_graph": "1"},
        "NHWC in a CUDA graph": {"prefer_nhwc": "1", "enable_cuda_graph": "1"},
    }
)
"""Options of the provider, by what they are called in a report."""

_WARM_RUNS = 2
"""The first captures, the second is launched."""


def open_raw(
    report: Report, what: str, path: Path, blob: NDArray[Any], setup: CudaSetup
) -> dict[str, Callable[[], object]]:
    """Return runs of a session with each of the options, input and outputs on the device.

    Args:
        report: Is told of options with which ONNX Runtime opens or runs no session.
        what: What it calls the model.
        path: A prepared graph.
        blob: What each run is fed.
        setup: Says where it runs; on the CPU the options mean nothing.
    """
    opened = {name: _opened(report, f"{what}, {name}", path, blob, setup, RAW_OPTIONS[name]) for name in RAW_OPTIONS}
    return {name: run for name, run in opened.items() if run is not None}


def write_model(model: bytes | Path, path: Path) -> Path:
    """Write a prepared graph to a file and return that."""
    path.write_bytes(model if isinstance(model, bytes) else model.read_bytes())
    return path


def noise(*shape: int) -> NDArray[np.float32]:
    """Return a blob of random numbers, always the same."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _opened(
    report: Report, what: str, path: Path, blob: NDArray[Any], setup: CudaSetup, options: Mapping[str, str]
) -> Callable[[], object] | None:
    try:
        run = _bound(path, blob, setup, options)
        for _ in range(_WARM_RUNS):
            run()
    except Exception as refusal:  # noqa: BLE001 - ONNX Runtime's classes have no other base
        report.tell(what, f"refused: {next(iter(str(refusal).splitlines()), type(refusal).__name__)}")
        return None
    return run


def _bound(path: Path, blob: NDArray[Any], setup: CudaSetup, options: Mapping[str, str]) -> Callable[[], object]:
    import onnxruntime

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    common = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested", **options}
    providers = [(CUDA, common), CPU] if setup.device == "cuda" else [CPU]
    session = onnxruntime.InferenceSession(str(path), quiet, providers=providers)
    binding = session.io_binding()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(blob, setup.device, 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
    names = [output.name for output in session.get_outputs()]
    for name in names:
        binding.bind_output(name, setup.device, 0)
    session.run_with_iobinding(binding, run_options(NO_GRAPH, waits=True))
    for name, output in zip(names, binding.get_outputs(), strict=True):
        binding.bind_ortvalue_output(name, output)
    graph = run_options("1", waits=True)
    return lambda: session.run_with_iobinding(binding, graph)
