"""The GPU, or what stands in for it with `--device cpu`."""

from __future__ import annotations

import os
from typing import Literal

from jetface.runtimes.cuda import Cuda, open_cuda
from jetface.runtimes.onnx_cuda import CudaSetup
from tests.support.fake_cuda import FakeCuda

DeviceName = Literal["cuda", "cpu"]


def open_device(device: DeviceName, *, is_eager: bool = True) -> Cuda:
    """Return CUDA, or host memory in its place: that shows that a program runs, and nothing else."""
    return open_cuda() if device == "cuda" else FakeCuda(is_eager=is_eager)


def open_setup(device: DeviceName) -> CudaSetup:
    """Return what models on ONNX Runtime share."""
    return CudaSetup(cuda=open_device(device), device=device)


def describe(cuda: Cuda) -> str:
    """Name the device, its driver, and the host's cores."""
    found = cuda.properties()
    major, minor = found.compute_capability
    versions = f"driver for CUDA {_dotted(cuda.driver_version())}, runtime {_dotted(cuda.runtime_version())}"
    return f"{found.name} ({major}.{minor}, {versions}), {os.cpu_count()} cores"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
