"""Checks of what is installed: the right wheel of ONNX Runtime, a numpy it can live with, and whether it loads."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec

from app.device.findings import Finding, Severity
from app.device.gpu import Gpu

FIXED_FOR_OFFLINE_CORES = (1, 27)
"""The first ONNX Runtime that bears cores that are switched off. Source: microsoft/onnxruntime#24092."""

_FIRST_FOR_NUMPY_2 = (1, 24)
"""Builds for Jetson before it want numpy 1, which their metadata does not say. Source: microsoft/onnxruntime#27562."""

_IMPORT_TIMEOUT_S = 60
"""A cold start from an SD card takes seconds."""

_JETSON_WHEEL = (
    "pip install 'numpy<2' https://github.com/ultralytics/assets/releases/download/v0.0.0/"
    "onnxruntime_gpu-1.23.0-cp310-cp310-linux_aarch64.whl"
)
_X86_WHEEL = "pip uninstall -y onnxruntime && pip install --force-reinstall onnxruntime-gpu"


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """How the import of a library in a process of its own ended."""

    exit_code: int
    """Negative: the number of the signal that ended it."""
    last_line: str = ""
    """The last one it wrote to stderr: the error."""

    @property
    def reason(self) -> str:
        """Why it failed, in words."""
        if self.exit_code < 0:
            return f"the process crashed with {signal.Signals(-self.exit_code).name}"
        return self.last_line or f"the process ended with exit code {self.exit_code}"


def import_apart(module: str, *, timeout_s: float = _IMPORT_TIMEOUT_S) -> ImportOutcome:
    """Import a module in a process of its own, so that a crash is told rather than suffered."""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, and names of modules that our code has
            [sys.executable, "-c", f"import app, {module}"], capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return ImportOutcome(1, f"the import did not end within {timeout_s:g} s")
    lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
    return ImportOutcome(done.returncode, lines[-1].strip() if lines else "")


def installed_packages() -> Mapping[str, str]:
    """Return the version of every installed distribution by its normalized name."""
    return {
        name.lower().replace("_", "-"): entry.version
        for entry in metadata.distributions()
        if (name := entry.metadata["Name"])
    }


def can_be_found(module: str) -> bool:
    """Tell whether a top-level module is installed, without importing it."""
    return find_spec(module) is not None


@dataclass(frozen=True, slots=True)
class Packages:
    """What is installed here."""

    versions: Mapping[str, str] = field(default_factory=installed_packages)
    """By normalized name."""
    import_module: Callable[[str], ImportOutcome] = import_apart
    has_module: Callable[[str], bool] = can_be_found

    @property
    def has_gpu_runtime(self) -> bool:
        """Whether the build of ONNX Runtime for NVIDIA GPUs is installed."""
        return "onnxruntime-gpu" in self.versions

    @property
    def has_tensorrt(self) -> bool:
        """Whether TensorRT's Python package is; TensorRT for RTX and the lean runtime do not count.

        A folder without metadata does: packages for an operating system need not have any.
        """
        is_listed = any(name == "tensorrt" or name.startswith("tensorrt-cu") for name in self.versions)
        return is_listed or self.has_module("tensorrt")

    @property
    def runtime_version(self) -> tuple[int, ...] | None:
        """Of ONNX Runtime, such as (1, 23, 2); None where it is not installed."""
        for name in ("onnxruntime-gpu", "onnxruntime"):
            if name in self.versions:
                return _numbers(self.versions[name])
        return None


def check_wheels(gpu: Gpu | None, packages: Packages, *, backend: str) -> Iterator[Finding]:
    """Look for a GPU that no installed library can use, and for two builds in one folder."""
    if {"onnxruntime", "onnxruntime-gpu"} <= packages.versions.keys():
        yield Finding(
            name="two-runtimes",
            severity=Severity.WARNING,
            what="Both onnxruntime and onnxruntime-gpu are installed.",
            why="They write into the same folder: which of them is imported is a matter of which came last.",
            cure=_X86_WHEEL,
        )
        return
    if gpu is None or not gpu.is_reachable or backend == "openvino":
        return
    if packages.has_gpu_runtime or packages.runtime_version is None:
        return
    has_tensorrt = packages.has_tensorrt and backend in {"auto", "tensorrt"}
    yield Finding(
        name="cpu-only-runtime",
        severity=Severity.NOTE if has_tensorrt else Severity.WARNING,
        what="There is a GPU, but this ONNX Runtime runs on the CPU only.",
        why=(
            "Models run on the CPU until their TensorRT engines are built."
            if has_tensorrt
            else "Models run on the CPU, many times slower."
        ),
        cure=_JETSON_WHEEL if gpu.is_integrated else _X86_WHEEL,
    )


def check_numpy(packages: Packages, *, backend: str, machine: str) -> Iterator[Finding]:
    """Look for a numpy that the Jetson build of ONNX Runtime was not built for."""
    version = packages.runtime_version
    numpy = _numbers(packages.versions.get("numpy", ""))
    if machine != "aarch64" or not packages.has_gpu_runtime or version is None or backend == "openvino":
        return
    if numpy >= (2,) and version < _FIRST_FOR_NUMPY_2:
        yield Finding(
            name="numpy-too-new",
            severity=Severity.WARNING,
            what=f"numpy {packages.versions['numpy']} is installed beside onnxruntime-gpu "
            f"{packages.versions['onnxruntime-gpu']}.",
            why="The Jetson builds of it before 1.24 are made for numpy 1: its import, or its first run, fails.",
            cure="pip install 'numpy<2' 'opencv-python-headless<4.12'",
        )


def check_runtime(packages: Packages, *, backend: str) -> Iterator[Finding]:
    """Import ONNX Runtime in a process of its own, where the service would import it."""
    if backend not in {"auto", "onnxruntime"}:
        return
    has_another = backend == "auto" and packages.has_tensorrt
    severity = Severity.WARNING if has_another else Severity.STOP
    if packages.runtime_version is None:
        reason = "it is not installed"
        # An image for engines alone leaves it out on purpose.
        severity = Severity.NOTE if has_another else Severity.STOP
    else:
        outcome = packages.import_module("onnxruntime")
        if outcome.exit_code == 0:
            return
        reason = outcome.reason
    yield Finding(
        name="runtime-import",
        severity=severity,
        what=f"ONNX Runtime cannot be imported: {reason}.",
        why="Nothing answers while engines are built." if has_another else "No model can be run.",
        cure=(
            "Mend the other findings first. Else install it anew: pip install --force-reinstall "
            + ("onnxruntime-gpu" if packages.has_gpu_runtime else "onnxruntime")
        ),
    )


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version; none for what is no version."""
    numbers: list[int] = []
    for part in version.split("+", maxsplit=1)[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
