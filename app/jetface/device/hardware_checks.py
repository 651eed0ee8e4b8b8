"""Checks of what the machine is and how it is set: cores, GPU, power mode, clocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from jetface.device.cores import offline_cores, online_cores
from jetface.device.findings import Finding, Severity
from jetface.device.gpu import Gpu
from jetface.device.jetson import Jetson, is_thor
from jetface.device.package_checks import FIXED_FOR_OFFLINE_CORES, Packages

_DLA_COMPILER = (
    "usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so",
    "usr/lib/aarch64-linux-gnu/tegra/libnvdla_compiler.so",
    "opt/dla/libnvdla_compiler.so",
)
"""Two places where it is mounted, and that of the images' own copy."""
_FIRST_WITHOUT_DLA_COMPILER = (10, 8)
"""Of TensorRT: 10.7 was the last 10.x with DLA, the last for JetPack 6, and the last that is linked to its compiler."""
_JETPACK_6 = 36
"""Its major release of L4T."""
_JETPACK_6_IMAGE = (
    "Build the image for JetPack 6: docker compose -f deploy/compose.jetson.yaml up -d --build (Dockerfile.jetson)."
)
_JETPACK_7_IMAGE = (
    "Build the image for JetPack 7: docker compose -f deploy/compose.jetson7.yaml up -d --build "
    "(deploy/jetson/Dockerfile.jp7)."
)
_TENSORRT = re.compile(r"tensorrt(-cu\d+)?")


def check_cores(root: Path, packages: Packages, *, backend: str, machine: str, is_jetson: bool) -> Iterator[Finding]:
    """Look for cores that are switched off: an old ONNX Runtime on aarch64 then writes out of bounds.

    Elsewhere cores are switched off for good reasons, and nothing breaks. Source: microsoft/onnxruntime#24092.
    """
    offline = offline_cores(root)
    if not offline or machine != "aarch64":
        return
    num_all = len(offline) + len(online_cores(root))
    cure = (
        "On the host: sudo nvpmodel -m 0 (all cores on; where it asks to restart, the mode stays until then; "
        "nvpmodel -q shows it), then start the service again."
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


def check_dla_compiler(
    root: Path, packages: Packages, *, backend: str, is_jetson: bool, l4t_major: int | None
) -> Iterator[Finding]:
    """Look for the library without which TensorRT before 10.8 cannot be imported on a Jetson.

    Hosts with JetPack 6 have it; the images for JetPack 6 carry one for those without.
    """
    version = tensorrt_version(root, packages)
    is_needed = l4t_major in {None, _JETPACK_6} if version is None else version < _FIRST_WITHOUT_DLA_COMPILER
    if not is_jetson or not packages.has_tensorrt or not is_needed:
        return
    if any(_has_content(root / name) for name in _DLA_COMPILER):
        return
    if l4t_major is not None and l4t_major > _JETPACK_6:
        cure = f"{_JETPACK_7_IMAGE} L4T {l4t_major} has no such library, and no package that brings it."
    else:
        cure = (
            "Start the container with `runtime: nvidia`, which brings it from the host. If it was, on the host: "
            "sudo apt install nvidia-l4t-dla-compiler, of the version of nvidia-l4t-core, then sudo ldconfig."
        )
    yield Finding(
        name="dla-compiler-missing",
        severity=Severity.STOP if backend == "tensorrt" else Severity.WARNING,
        what="libnvdla_compiler.so is missing or empty.",
        why="`import tensorrt` fails without it, before TensorRT 10.8.",
        cure=cure,
    )


def check_release(root: Path, packages: Packages, *, backend: str, l4t_major: int | None) -> Iterator[Finding]:
    """Look for a Jetson whose JetPack is not the one that the TensorRT here is made for."""
    version = tensorrt_version(root, packages)
    if l4t_major is None or version is None or backend not in {"auto", "tensorrt"}:
        return
    severity = Severity.STOP if backend == "tensorrt" else Severity.WARNING
    number = ".".join(map(str, version[:2]))
    if l4t_major < _JETPACK_6:
        why, cure = "Neither driver nor libraries of that release fit.", "Flash the board with JetPack 6.2 or 7.2."
    elif l4t_major == _JETPACK_6 and version >= _FIRST_WITHOUT_DLA_COMPILER:
        why, cure = "It needs CUDA 13, and this driver is CUDA 12.6's.", _JETPACK_6_IMAGE
    elif l4t_major > _JETPACK_6 and version < _FIRST_WITHOUT_DLA_COMPILER and is_thor(root):
        why, cure = "It has no kernels for Thor's GPU (11.0).", _JETPACK_7_IMAGE
    elif l4t_major > _JETPACK_6 and version < _FIRST_WITHOUT_DLA_COMPILER:
        why, cure = "It is made for JetPack 6; nobody has told that it runs on a later one.", _JETPACK_7_IMAGE
        severity = Severity.NOTE
    else:
        return
    yield Finding(
        name="other-jetpack",
        severity=severity,
        what=f"The host has L4T {l4t_major}, and TensorRT {number} is for another.",
        why=why,
        cure=cure,
    )


def tensorrt_version(root: Path, packages: Packages) -> tuple[int, ...] | None:
    """Return that of the installed TensorRT, such as (10, 3, 0): by its library where its package has no metadata."""
    listed = [version for name, version in packages.versions.items() if _TENSORRT.fullmatch(name)]
    libraries = (root / "usr/lib/aarch64-linux-gnu").glob("libnvinfer.so.*.*")
    found = [re.search(r"\d+(\.\d+)+", text) for text in (*listed, *(path.name for path in libraries))]
    return max((tuple(map(int, each[0].split("."))) for each in found if each), default=None)


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
            cure=(
                "On the host: sudo nvpmodel -m 0 on an AGX Orin or Thor, and a restart where it asks for one; "
                "nvpmodel -p --verbose lists the modes of others."
            ),
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
