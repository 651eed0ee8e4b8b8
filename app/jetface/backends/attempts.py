"""Trying what would run models on a GPU, one after the other, and saying what came of it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from jetface.backends.cuda.bindings import open_cuda
from jetface.backends.cuda.runtime import CudaError, CudaRuntime
from jetface.backends.engines.kit import EngineKit
from jetface.backends.faults import CONTAINER_CURE, NO_KERNELS, Fault, explain
from jetface.backends.provider_probe import provider_fault
from jetface.backends.providers import CUDA, runtime_version
from jetface.backends.tensorrt.kit import TensorrtKit, device_facts
from jetface.backends.tensorrt.module import Toolkit, find_toolkit
from jetface.device.cores import offline_cores
from jetface.device.gpu import Gpu, find_gpu
from jetface.device.jetson import compute_capability, find_jetson, l4t_major
from jetface.device.package_checks import (
    FIXED_FOR_OFFLINE_CORES,
    Kernels,
    kernels_cure,
    kernels_of_runtime,
    without_kernels,
)
from jetface.errors import BackendUnavailableError

AVAILABLE = "available"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to run models, and what came of trying it."""

    name: str
    """`tensorrt`, `onnxruntime-cuda`, `onnxruntime-cpu`, `openvino`, or `onnxruntime` where it is not even imported."""
    outcome: str
    """`available`, or why it is not: one line."""
    cure: str = ""
    """What mends it: one line; empty where nothing is to be done."""

    @property
    def is_available(self) -> bool:
        """Whether it can run models here."""
        return self.outcome == AVAILABLE

    @classmethod
    def failed(cls, name: str, fault: Fault) -> Attempt:
        """Return the attempt that a fault ended."""
        return cls(name, f"{fault.what}: {fault.why}", fault.cure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What is asked of this machine; others in tests."""

    root: Path = Path("/")
    """Where `/dev`, `/proc`, `/sys` and `/etc` are."""
    find_toolkit: Callable[[], Toolkit] = find_toolkit
    open_cuda: Callable[[], CudaRuntime] = open_cuda
    provider_fault: Callable[[str], str | None] = provider_fault
    is_installed: Callable[[str], bool] = lambda name: any(True for _ in metadata.distributions(name=name))
    """Whether a distribution is."""
    read_kernels: Callable[[], Kernels | None] = kernels_of_runtime
    """For which GPUs ONNX Runtime has kernels."""
    machine: str = field(default_factory=platform.machine)
    """The processor's architecture."""

    def compute_capability(self) -> tuple[int, int] | None:
        """Return that of the GPU, as CUDA says it, else as files do; None where it cannot be had."""
        try:
            return self.open_cuda().properties().compute_capability
        except (BackendUnavailableError, CudaError):
            return compute_capability(self.root)

    def cores_fault(self) -> Fault | None:
        """Return why an ONNX Runtime of this version may write out of bounds here; None: it does not."""
        num_offline = len(offline_cores(self.root))
        if not num_offline or self.machine != "aarch64" or not (0,) < runtime_version() < FIXED_FOR_OFFLINE_CORES:
            return None
        return Fault(
            "ONNX Runtime may crash",
            f"before 1.27 it writes out of bounds where CPU cores are switched off, as {num_offline} are",
            "Switch them on and start again; on a Jetson `sudo nvpmodel -m 0` on the host does.",
        )


def try_tensorrt(probes: Probes, *, is_required: bool) -> EngineKit | Fault:
    """Return TensorRT, or what keeps it from running here.

    Args:
        probes: What is asked of this machine.
        is_required: Whether it is imported even where there is no GPU: what is wrong with it then comes first.
    """
    gpu = find_gpu(probes.root)
    fault = gpu_fault(gpu)
    if fault and gpu is None and not is_required:
        return fault
    try:
        toolkit = probes.find_toolkit()
    except BackendUnavailableError as error:
        return fault_of(error, "TensorRT cannot be imported")
    if fault:
        return fault
    try:
        cuda = probes.open_cuda()
        return TensorrtKit(toolkit=toolkit, device=device_facts(cuda, find_jetson(probes.root)), cuda=cuda)
    except (BackendUnavailableError, CudaError) as error:
        return fault_of(error, "CUDA does not start")


def cuda_fault(probes: Probes, *, cuda_is_offered: bool) -> Fault | None:
    """Return what keeps ONNX Runtime from running on the GPU; None when nothing does.

    Args:
        probes: What is asked of this machine.
        cuda_is_offered: Whether ONNX Runtime says that it has the CUDA provider: then it is tried.
    """
    what = "ONNX Runtime does not run on the GPU"
    reason = probes.provider_fault(CUDA) if cuda_is_offered else None
    if cuda_is_offered and reason is None:
        return None
    # Files tell causes that messages only hint at.
    if fault := gpu_fault(find_gpu(probes.root)):
        return fault
    if reason is not None:
        return _kernels_fault(probes, what, reason) or explain(reason, what=what)
    if not probes.is_installed("onnxruntime-gpu"):
        return Fault(
            what,
            "the build that is installed is for CPUs only",
            "Install the build for NVIDIA GPUs in its place: `pip uninstall -y onnxruntime`, then `pip install "
            "onnxruntime-gpu`; for JetPack 6 the wheel that `deploy/` installs, with `numpy<2`.",
        )
    if probes.is_installed("onnxruntime"):
        return Fault(
            what,
            "onnxruntime and onnxruntime-gpu are installed in one folder, and the one for CPUs came last",
            "`pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install onnxruntime-gpu`.",
        )
    return Fault(
        what,
        "the build for NVIDIA GPUs is installed but offers no CUDA",
        "Install it anew: `pip install --force-reinstall onnxruntime-gpu`.",
    )


def _kernels_fault(probes: Probes, what: str, reason: str) -> Fault | None:
    """Return that ONNX Runtime has no kernels for this GPU, where its library or its words say so."""
    capability, kernels = probes.compute_capability(), probes.read_kernels()
    cure = kernels_cure(capability, jetson_l4t=l4t_major(probes.root))
    # Where the list speaks against the GPU, whatever else is missing would be installed in vain.
    if capability and kernels and not kernels.run_on(capability):
        return Fault(what, without_kernels(kernels, capability), cure)
    if explain(reason, what=what) == NO_KERNELS:
        return Fault(what, NO_KERNELS.why, cure)
    return None


def gpu_fault(gpu: Gpu | None) -> Fault | None:
    """Return why a GPU cannot be used, as far as files tell; None when nothing speaks against it."""
    what = "CUDA does not start"
    if gpu is None:
        cure = "Where there is one, give it to the container: `runtime: nvidia` on a Jetson, `--gpus all` elsewhere."
        return Fault("TensorRT and CUDA need a GPU", "no NVIDIA GPU is visible", cure)
    if gpu.is_reachable:
        return None
    if gpu.is_integrated or gpu.driver:
        return Fault(what, "there is a GPU, but this container was started without it", CONTAINER_CURE)
    return Fault(
        what,
        "there is a GPU, but its driver is not loaded",
        "Install the NVIDIA driver on the host and restart it; `nvidia-smi` shows when it works.",
    )


def fault_of(error: Exception, what: str) -> Fault:
    """Return what an error tells; `what` could not be had."""
    if isinstance(error, BackendUnavailableError) and "why" in error.details:
        details = error.details
        return Fault(str(details["what"]), str(details["why"]), str(details["cure"]))
    return explain(" ".join(str(part) for part in (error, error.__cause__) if part), what=what)
