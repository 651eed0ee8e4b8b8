"""What may keep the service from starting or from running well on this machine, found before it starts.

Nothing here loads a library of the GPU or a model: ONNX Runtime is imported in a process of its own, which may crash.
"""

from __future__ import annotations

import errno
import http.client
import json
import mmap
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from jetface.device.machine import (
    Gpu,
    Jetson,
    compute_capability,
    find_gpu,
    find_jetson,
    is_thor,
    l4t_major,
    offline_cores,
    online_cores,
)

STARTUP_FAILURE = 3
"""Exit code of a service that cannot start; of `serve --dry-run`, `doctor` and `doctor --preflight` where it could not.
uvicorn's own: a worker that ends so is not started once more. Source: uvicorn, `config.STARTUP_FAILURE`."""


class Severity(str, Enum):
    """How bad a finding is; the worst first."""

    STOP = "stop"
    """The service would not start, or would crash."""
    WARNING = "warning"
    """It runs, slower or with less than was asked for."""
    NOTE = "note"
    """It runs well; worth knowing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    name: str
    """What programs tell findings by, such as `cores-offline`."""
    severity: Severity
    what: str
    """One sentence."""
    why: str
    """Why it matters, one sentence."""
    cure: str
    """The command that mends it, or what to do."""


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Return the findings in the order in which to mend them."""
    severities = list(Severity)
    return sorted(findings, key=lambda finding: severities.index(finding.severity))


def would_stop(findings: list[Finding]) -> bool:
    """Tell whether any of them would keep the service from running."""
    return any(finding.severity is Severity.STOP for finding in findings)


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


_GIBIBYTE = 2**30

_ASK_TIMEOUT_S = 2.0
_LONGEST_ANSWER_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the service works, and what it needs there."""

    models_dir: Path
    engine_dir: Path | None
    """None: engines are not kept."""
    host: str
    port: int
    uds: Path | None = None
    """The Unix socket that is listened on instead."""
    is_starting: bool
    """Whether the service is about to start: the port must be free then; otherwise the service itself may hold it."""
    free_memory_bytes: float
    """Infinite where it is not known."""
    floor_memory_bytes: int
    """The setting `MIN_FREE_MEMORY_BYTES`."""
    need_disk_bytes: int = _GIBIBYTE
    """Weights of the largest pair, their prepared graphs, and a file that is written beside the one it replaces."""
    temporary_dir: Path = field(default_factory=lambda: Path(os.environ.get("TMPDIR") or "/tmp"))  # noqa: S108 - looked at
    """Where Python makes temporary files first."""
    need_temporary_bytes: int = 16 * 2**20
    """A build's job, and the profile of a run by which an old ONNX Runtime tells what it leaves to the CPU."""
    build_memory_bytes: int = 4 * _GIBIBYTE
    """What the build of the largest engine takes, about: it has not been measured on a Jetson."""


def check_folders(place: Place, *, builds_engines: bool) -> Iterator[Finding]:
    """Look for folders that cannot be written, and for too little room in them."""
    named = {"MODELS_DIR": place.models_dir}
    if builds_engines and place.engine_dir is not None:
        named["TRT_ENGINE_CACHE_PATH"] = place.engine_dir
    for variable, folder in named.items():
        there = _nearest(folder)
        if there is None or not is_writable(there):
            yield Finding(
                name="folder-read-only",
                severity=Severity.WARNING,
                what=f"{variable}={folder} cannot be written.",
                why="Nothing is kept there: weights are not downloaded, graphs and engines are made at each start.",
                cure=f"On the host, for the folder that is mounted there: sudo chown -R {os.getuid()} FOLDER, or "
                f"mount it without :ro; or set {variable} to another.",
            )
            continue
        free_bytes = shutil.disk_usage(there).free
        if free_bytes < place.need_disk_bytes:
            yield Finding(
                name="disk-full",
                severity=Severity.WARNING,
                what=f"{_gibibytes(free_bytes)} are free in {variable}={folder}.",
                why=f"Weights, prepared graphs and engines take up to {_gibibytes(place.need_disk_bytes)}.",
                cure="Free some: docker image prune; or set the variable to a folder on another disk.",
            )


def check_temporary(place: Place) -> Iterator[Finding]:
    """Look for a folder of temporary files that is full, or cannot be written."""
    folder = place.temporary_dir
    if not folder.is_dir() or not is_writable(folder):
        what = f"{folder}, where temporary files go, cannot be written."
    elif (free_bytes := shutil.disk_usage(folder).free) < place.need_temporary_bytes:
        what = f"{free_bytes / 2**20:.1f} MiB are free in {folder}, where temporary files go."
    else:
        return
    yield Finding(
        name="tmp-full",
        severity=Severity.WARNING,
        what=what,
        why="No engine can be built without: ONNX Runtime serves on.",
        cure=f"Start the container anew, which empties its {folder}, or give it more in the compose file: tmpfs: "
        f'["{folder}:size=512m"]. TMPDIR names another folder.',
    )


def check_memory(place: Place, *, builds_engines: bool) -> Iterator[Finding]:
    """Look for too little free memory to load models, or to build engines."""
    free_bytes = place.free_memory_bytes
    cure = "End what else runs, raise the container's memory limit, or name smaller models in DET_MODEL and REC_MODEL."
    if free_bytes < place.floor_memory_bytes:
        yield Finding(
            name="memory-low",
            severity=Severity.WARNING,
            what=f"{_gibibytes(free_bytes)} of memory are free.",
            why="Below MIN_FREE_MEMORY_BYTES no model is loaded: requests get 503 memory_pressure.",
            cure=cure,
        )
    elif builds_engines and free_bytes < place.build_memory_bytes:
        yield Finding(
            name="memory-low-for-builds",
            severity=Severity.WARNING,
            what=f"{_gibibytes(free_bytes)} of memory are free.",
            why=f"To build an engine may take about {_gibibytes(place.build_memory_bytes)}: it is refused, or fails.",
            cure=cure,
        )


def check_port(place: Place) -> Iterator[Finding]:
    """Try to listen where the service would."""
    if place.uds is not None:
        yield from _check_path(place, place.uds)
        return
    try:
        addresses = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        yield _cannot_listen(place, error.strerror or str(error))
        return
    family, kind, protocol, _, address = addresses[0]
    try:
        with socket.socket(family, kind, protocol) as listener:
            # As the server does: a connection that lingers after the last service is no other service.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if place.host == "::":
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(address)
    except OSError as error:
        yield _port_taken(place) if error.errno == errno.EADDRINUSE else _cannot_listen(place, error.strerror)


def _check_path(place: Place, path: Path) -> Iterator[Finding]:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(str(path))
        reason: str | None = "a service answers there" if place.is_starting else None
    except (FileNotFoundError, ConnectionRefusedError):  # a socket that nobody listens on is replaced
        reason = None
        if path.exists() and not path.is_socket():
            reason = "it is not a socket"
        elif not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            reason = "its folder is not there, or cannot be written"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason is not None:
        yield Finding(
            name="address-unusable",
            severity=Severity.STOP,
            what=f"UDS={path} cannot be listened on: {reason}.",
            why="The service cannot start.",
            cure="Set UDS to a path of at most 107 bytes in a folder that it may write; end the service that is there.",
        )


def _port_taken(place: Place) -> Finding:
    return Finding(
        name="port-in-use",
        severity=Severity.NOTE if not place.is_starting and _is_ours(place) else Severity.STOP,
        what=f"Port {place.port} of {place.host} is in use.",
        why="The service cannot listen on it, unless it is the service that does.",
        cure=f"sudo ss -ltnp 'sport = :{place.port}' says by whom; end it, or set PORT to another.",
    )


def _is_ours(place: Place) -> bool:
    """Ask whoever listens whether it is the service."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place.host, place.host)  # noqa: S104 - listened on
    connection = http.client.HTTPConnection(host, place.port, timeout=_ASK_TIMEOUT_S)
    try:
        connection.request("GET", "/health/live")
        answer = json.loads(connection.getresponse().read(_LONGEST_ANSWER_BYTES))
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return isinstance(answer, dict) and answer.get("status") in {"alive", "failed"}


def _cannot_listen(place: Place, reason: str | None) -> Finding:
    return Finding(
        name="address-unusable",
        severity=Severity.STOP,
        what=f"{place.host} port {place.port} cannot be listened on: {reason}.",
        why="The service cannot start.",
        cure="Set HOST to 0.0.0.0, 127.0.0.1 or an address of this machine, and PORT to 1024 or above.",
    )


def _nearest(folder: Path) -> Path | None:
    """Return the folder, or what it would be made in; None when something else is in its place."""
    for candidate in (folder.absolute(), *folder.absolute().parents):
        if candidate.is_dir():
            return candidate
        if candidate.exists():
            return None
    return None


def is_writable(folder: Path) -> bool:
    """Try it: permissions do not tell of a file system that is mounted read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _gibibytes(count: float) -> str:
    return f"{count / _GIBIBYTE:.1f} GiB"


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


def preflight(packages: Packages, place: Place, *, backend: str, machine: str, root: Path = Path("/")) -> list[Finding]:
    """Make every check.

    Args:
        packages: What is installed.
        place: Where the service reads, writes and listens.
        backend: The setting `BACKEND`.
        machine: The processor's architecture, as `platform.machine` says it.
        root: Where `/dev`, `/etc`, `/proc`, `/sys`, `/usr` and `/var` are; another folder in tests.

    Returns:
        What was found, the worst first; each check that cannot be made finds nothing.
    """
    gpu = find_gpu(root)
    jetson = find_jetson(root)
    # Inside a container its GPU may be all that tells a Jetson.
    is_jetson = jetson is not None or (gpu is not None and gpu.is_integrated)
    has_gpu = gpu is not None and gpu.is_reachable
    builds_engines = has_gpu and backend in {"auto", "tensorrt"}
    return worst_first(
        [
            *check_cores(root, packages, backend=backend, machine=machine, is_jetson=is_jetson),
            *check_gpu(gpu, backend=backend),
            *check_dla_compiler(
                root, packages, backend=backend, is_jetson=is_jetson and has_gpu, l4t_major=l4t_major(root)
            ),
            *check_release(root, packages, backend=backend, l4t_major=l4t_major(root)),
            *check_wheels(gpu, packages, backend=backend, jetson_l4t=l4t_major(root)),
            *check_kernels(l4t_major(root), compute_capability(root) if has_gpu else None, packages, backend=backend),
            *check_numpy(packages, backend=backend, machine=machine),
            *check_runtime(packages, backend=backend),
            *check_folders(place, builds_engines=builds_engines),
            *check_temporary(place),
            *check_memory(place, builds_engines=builds_engines),
            *check_port(place),
            *check_power(jetson),
        ]
    )
