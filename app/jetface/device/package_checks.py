"""Checks of what is installed: the right wheel of ONNX Runtime, a numpy it can live with, and whether it loads."""

from __future__ import annotations

import mmap
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from jetface.device.findings import Finding, Severity
from jetface.device.gpu import Gpu

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

_FIRST_L4T_WITHOUT_WHEEL = 38
"""From JetPack 7 on, Python is 3.12, and no index has a wheel with kernels for Orin (8.7) or Thor (11.0)."""
_LAST_FOR_OLD_GPUS = "1.26.0"
"""Has kernels for 6.0 to 9.0, read from its x86 wheel by `kernels_of`; from 1.27 on it is built with CUDA 13."""
_FIRST_CAPABILITY_OF_CUDA_13 = (7, 5)

_THOR = (11, 0)

_FATBIN_SECTIONS = (b".nv_fatbin", b"__nv_relfatbin")
_FATBIN_MAGIC = b"\x50\xed\x55\xba"
_FATBIN_HEADER = struct.Struct("<IHHQ")
"""Magic number, version, bytes of this header, bytes of the entries that follow."""
_FATBIN_ENTRY = struct.Struct("<HHIQ12xI")
"""Kind, version, bytes of this header, bytes of the code that follows; at 28 the architecture, such as 87."""
_PTX = 1
_MACHINE_CODE = 2


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
            [sys.executable, "-c", f"import jetface, {module}"], capture_output=True, timeout=timeout_s, check=False
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
class Kernels:
    """The GPUs that a library has kernels for, as compute capabilities without their point: 87 is 8.7."""

    binaries: frozenset[int]
    """Machine code: runs on the same major generation, of this minor or a later one."""
    sources: frozenset[int] = frozenset()
    """PTX, which the driver compiles at start: runs on everything from this on."""

    def run_on(self, capability: tuple[int, int]) -> bool:
        """Tell whether any of them can run on a GPU.

        NVIDIA promises compatibility of minor generations for desktop GPUs only; on a Jetson, too, code of 8.0 has
        been seen to run on 8.7. What this lets pass the probe at start still has to run.

        Args:
            capability: Compute capability of the GPU, major and minor.
        """
        major, minor = capability
        return any(code // 10 == major and code % 10 <= minor for code in self.binaries) or any(
            code <= 10 * major + minor for code in self.sources
        )

    def __str__(self) -> str:
        """Return them as people write them: `89/90/120/121`, PTX said of those that are."""
        return "/".join([*map(str, sorted(self.binaries)), *(f"PTX {code}" for code in sorted(self.sources))])


def kernels_of(library: Path) -> Kernels | None:
    """Read from a shared library for which GPUs it has kernels.

    Headers are read alone, by their places in the file: a library of 240 MB takes 32 ms, half a second cold.

    Args:
        library: An ELF file of 64 bits.

    Returns:
        None where the file cannot be read, is no such library, or has no kernels.

    Layout of the list: the header `fatbinary_section.h` of CUDA for the outer one; the entries are not documented and
    were checked with the wheels 1.26.0 and 1.31.1 of onnxruntime-gpu.
    """
    try:
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            entries = {
                (kind, code)
                for start, end in _sections(content, _FATBIN_SECTIONS)
                for kind, code in _fatbin_entries(content, start, end)
            }
    # No file, an empty one, a damaged one: it is for others to say so.
    except (OSError, ValueError, OverflowError, struct.error):
        return None
    kernels = Kernels(
        frozenset(code for kind, code in entries if kind == _MACHINE_CODE),
        frozenset(code for kind, code in entries if kind == _PTX),
    )
    return kernels if entries else None


def _sections(content: mmap.mmap, wanted: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
    """Yield where sections of these names start and end."""
    if content[:5] != b"\x7fELF\x02":
        return
    (table,) = struct.unpack_from("<Q", content, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", content, 0x3A)
    headers = [struct.unpack_from("<I20xQQ", content, table + index * size) for index in range(count)]
    if names_index >= len(headers):
        return
    names = headers[names_index][1]
    for name, start, length in headers:
        end_of_name = content.find(b"\0", names + name)
        if content[names + name : end_of_name] in wanted:
            yield start, min(start + length, len(content))


def _fatbin_entries(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield kind and architecture of all code in a section; between its parts there is padding."""
    while (at := content.find(_FATBIN_MAGIC, start, end)) >= 0:
        _, _, header, length = _FATBIN_HEADER.unpack_from(content, at)
        entry, start = at + header, min(end, max(at + header + length, at + _FATBIN_HEADER.size))
        while entry + _FATBIN_ENTRY.size <= start:
            kind, _, entry_header, entry_length, code = _FATBIN_ENTRY.unpack_from(content, entry)
            if kind in (_PTX, _MACHINE_CODE):
                yield kind, code
            entry += max(entry_header + entry_length, _FATBIN_ENTRY.size)


def runtime_library(provider: str) -> Path:
    """Return where ONNX Runtime has the library of a provider, without importing it; it need not be there.

    Args:
        provider: Short name: `cuda`, `tensorrt`, ...
    """
    spec = find_spec("onnxruntime")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    return folder / "capi" / f"libonnxruntime_providers_{provider}.so"


def kernels_of_runtime() -> Kernels | None:
    """Read for which GPUs the installed ONNX Runtime has kernels; see `kernels_of`."""
    return kernels_of(runtime_library("cuda"))


@dataclass(frozen=True, slots=True)
class Packages:
    """What is installed here."""

    versions: Mapping[str, str] = field(default_factory=installed_packages)
    """By normalized name."""
    import_module: Callable[[str], ImportOutcome] = import_apart
    has_module: Callable[[str], bool] = can_be_found
    read_kernels: Callable[[], Kernels | None] = kernels_of_runtime
    """Those of ONNX Runtime."""

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


def check_wheels(
    gpu: Gpu | None, packages: Packages, *, backend: str, jetson_l4t: int | None = None
) -> Iterator[Finding]:
    """Look for a GPU that no installed library can use, and for two builds in one folder.

    Args:
        gpu: That of the machine.
        packages: What is installed.
        backend: The setting `BACKEND`.
        jetson_l4t: Major release of a Jetson's L4T; None elsewhere and where it is not known.
    """
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
        cure=_X86_WHEEL
        if not gpu.is_integrated
        else _JETSON_WHEEL
        if jetson_l4t is None
        else kernels_cure(None, jetson_l4t=jetson_l4t),
    )


def check_kernels(
    jetson_l4t: int | None, capability: tuple[int, int] | None, packages: Packages, *, backend: str
) -> Iterator[Finding]:
    """Look for an ONNX Runtime that has no kernels for this GPU.

    Args:
        jetson_l4t: Major release of a Jetson's L4T; None elsewhere and where it is not known.
        capability: Compute capability of the GPU; None where it is not known: nothing is found then.
        packages: What is installed.
        backend: The setting `BACKEND`.
    """
    if capability is None or not packages.has_gpu_runtime or backend not in {"auto", "onnxruntime"}:
        return
    kernels = packages.read_kernels()
    if kernels is None or kernels.run_on(capability):
        return
    has_tensorrt = packages.has_tensorrt and backend == "auto"
    yield Finding(
        name="wheel-without-kernels",
        severity=Severity.NOTE if has_tensorrt else Severity.WARNING,
        what=f"ONNX Runtime cannot run on this GPU: {without_kernels(kernels, capability)}.",
        why=(
            "Models run on the CPU until their TensorRT engines are built."
            if has_tensorrt
            else "Models run on the CPU, many times slower."
        ),
        cure=kernels_cure(capability, jetson_l4t=jetson_l4t),
    )


def without_kernels(kernels: Kernels, capability: tuple[int, int]) -> str:
    """Say which GPUs a wheel of ONNX Runtime is for, and that this one is none of them."""
    return f"this wheel has kernels for {kernels}, this GPU is {capability[0]}.{capability[1]}"


def kernels_cure(capability: tuple[int, int] | None, *, jetson_l4t: int | None) -> str:
    """Say where an ONNX Runtime with kernels for a GPU can be had.

    Args:
        capability: Compute capability of the GPU; None where it is not known.
        jetson_l4t: Major release of a Jetson's L4T; None elsewhere and where it is not known.
    """
    if capability == _THOR if jetson_l4t is None else jetson_l4t >= _FIRST_L4T_WITHOUT_WHEEL:
        return (
            "No index has a wheel for JetPack 7 with kernels for Orin (8.7) or Thor (11.0): set BACKEND=tensorrt, "
            "which needs none, or install one that was built with CMAKE_CUDA_ARCHITECTURES='87-real;110-real'."
        )
    if jetson_l4t is not None or capability in {(7, 2), (8, 7)}:
        return f"Install the wheel that is built for JetPack 6: {_JETSON_WHEEL}"
    if capability is not None and capability < _FIRST_CAPABILITY_OF_CUDA_13:
        return f"Install the last release for GPUs this old: pip install onnxruntime-gpu=={_LAST_FOR_OLD_GPUS}"
    number = "this GPU's compute capability" if capability is None else f"{capability[0]}.{capability[1]}"
    return f"Install a release of onnxruntime-gpu that is built for {number}: pip install --upgrade onnxruntime-gpu"


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
