"""Checks of what the machine is and how it is set: cores, GPU, power mode, clocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from app.device.cores import offline_cores, online_cores
from app.device.findings import Finding, Severity
from app.device.gpu import Gpu
from app.device.jetson import Jetson
from app.device.package_checks import FIXED_FOR_OFFLINE_CORES, Packages

_DLA_COMPILER = (
    "usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so",
    "usr/lib/aarch64-linux-gnu/tegra/libnvdla_compiler.so",
)


def check_cores(root: Path, packages: Packages, *, backend: str, machine: str, is_jetson: bool) -> Iterator[Finding]:
    """Look for cores that are switched off: an old ONNX Runtime on aarch64 then writes out of bounds.

    Elsewhere cores are switched off for good reasons, and nothing breaks. Source: microsoft/onnxruntime#24092.
    """
    offline = offline_cores(root)
    if not offline or machine != "aarch64":
        return
    num_all = len(offline) + len(online_cores(root))
    cure = (
        "On the host: sudo nvpmodel -m 0 (all cores on; nvpmodel -q shows the mode), then start the service again."
        if is_jetson
        else "; ".join(f"echo 1 | sudo tee /sys/devices/system/cpu/cpu{core}/online" for core in sorted(offline))
    )
    version = packages.runtime_version
    is_at_risk = backend in {"auto", "onnxruntime"} and version is not None and version < FIXED_FOR_OFFLINE_CORES
    yield Finding(
        name="cores-offline",
        severity=Severity.WARNING if is_at_risk else Severity.NOTE,
        what=f"{len(offline)} of {num_all} CPU cores are switched off.",
        why=(
            "ONNX Runtime before 1.27 then writes out of bounds: 'free(): invalid pointer' and the like, at any time."
            if is_at_risk
            else "Decoding and all else on the CPU has fewer cores."
        ),
        cure=cure,
    )


def check_gpu(gpu: Gpu | None, *, backend: str) -> Iterator[Finding]:
    """Look for a GPU that this process cannot reach."""
    if gpu is None or gpu.is_reachable:
        return
    if gpu.is_integrated:
        cure = "Start the container with `runtime: nvidia` (docker run --runtime nvidia); --gpus alone is not enough."
    elif gpu.driver:
        cure = (
            "Give the container the GPU: docker run --gpus all, or deploy.resources.reservations.devices in the "
            "compose file; the host needs the NVIDIA Container Toolkit."
        )
    else:
        cure = "Install the driver on the host: sudo apt install nvidia-driver-580-server (or newer), then restart it."
    yield Finding(
        name="gpu-unreachable",
        severity=Severity.STOP if backend == "tensorrt" else Severity.WARNING,
        what="There is an NVIDIA GPU, but its device files are not here.",
        why="Models run on the CPU, many times slower.",
        cure=cure,
    )


def check_dla_compiler(root: Path, packages: Packages, *, backend: str, is_jetson: bool) -> Iterator[Finding]:
    """Look for the library without which TensorRT cannot be imported on a Jetson, and which only the host has."""
    if not is_jetson or not packages.has_tensorrt or any(_has_content(root / name) for name in _DLA_COMPILER):
        return
    yield Finding(
        name="dla-compiler-missing",
        severity=Severity.STOP if backend == "tensorrt" else Severity.WARNING,
        what="libnvdla_compiler.so is missing or empty.",
        why="`import tensorrt` fails without it, on JetPack 6.",
        cure=(
            "Start the container with `runtime: nvidia`, which brings it from the host. If it was, on the host: "
            "sudo apt install nvidia-l4t-dla-compiler, of the version of nvidia-l4t-core, then sudo ldconfig."
        ),
    )


def check_power(jetson: Jetson | None) -> Iterator[Finding]:
    """Look for a power mode and clocks that cost speed."""
    if jetson is None:
        return
    mode = jetson.power_mode
    # Where the list of modes cannot be read there is the number alone: 0 is MAXN on an AGX Orin.
    if mode is not None and "MAXN" not in mode and mode != "0":
        yield Finding(
            name="power-mode",
            severity=Severity.NOTE,
            what=f"The power mode is {mode}.",
            why="It limits clocks and may switch cores off; engines built in it are tuned for it.",
            cure="On the host: sudo nvpmodel -m 0 on an AGX Orin; nvpmodel -p --verbose lists the modes of others.",
        )
    if jetson.gpu_clock_is_fixed is False:
        yield Finding(
            name="clocks-vary",
            severity=Severity.NOTE,
            what="The clock of the GPU follows the load.",
            why="The first requests after a pause are slower, and figures of a benchmark vary.",
            cure="On the host, after each start of the board: sudo jetson_clocks",
        )


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
