"""Whether ONNX Runtime's CUDA provider starts: tried with packages of its name that behave as it does, and for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from jetface.runtimes.providers import CPU, provider_fault
from tests.support.fatbins import elf, fatbin
from tests.support.machines import ORIN, SERVER, plant
from tests.support.shared import REPOSITORY

RUNTIME = """
import os

class SessionOptions:
    pass

class InferenceSession:
    def __init__(self, model, options, providers, enable_fallback):
        assert not enable_fallback
        if os.environ.get("ON_OPEN"):
            raise RuntimeError(os.environ["ON_OPEN"])

    def run(self, names, inputs):
        if os.environ.get("ON_RUN"):
            raise RuntimeError(os.environ["ON_RUN"])
        return [inputs["x"] * int(os.environ.get("TIMES", "2"))]

    def get_providers(self):
        return os.environ["STARTED"].split(",")

def get_available_providers():
    return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

def preload_dlls():
    print("Failed to load libcublasLt.so.13")
"""
"""Answers as ONNX Runtime does, by what the environment says has started."""

PROBE = """
from jetface.runtimes.providers import provider_fault
print(provider_fault("CUDAExecutionProvider"))
"""
SELECT = """
from pathlib import Path
from jetface.runtimes.choose import Host
from jetface.runtimes.choose import select_backend
from jetface.errors import BackendUnavailableError
try:
    selection = select_backend({backend!r}, providers={providers!r}, host=Host(root=Path({root!r})))
    print(selection.name, *(attempt.outcome for attempt in selection.attempts), selection.is_fallback, sep="|")
except BackendUnavailableError as error:
    print(error.message)
"""
CUDA_ONLY, CPU_ONLY = {"STARTED": "CUDAExecutionProvider,CPUExecutionProvider"}, {"STARTED": "CPUExecutionProvider"}

Run = Callable[..., str]


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Folder with a package `onnxruntime`."""
    capi = tmp_path / "packages" / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (capi.parent / "__init__.py").write_text(RUNTIME, encoding="utf-8")
    return tmp_path / "packages"


@pytest.fixture
def run(packages: Path) -> Run:
    """Run code where that package is found first; return the last line it printed."""

    def run_it(code: str, **environ: str) -> str:
        path = f"import sys; sys.path[:0] = [{str(packages)!r}, {str(REPOSITORY)!r}]\n"
        done = subprocess.run(
            [sys.executable, "-c", path + code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **environ},
        )
        return done.stdout.strip().splitlines()[-1]

    return run_it


def test_a_provider_that_starts_has_no_fault() -> None:
    assert provider_fault(CPU) is None


def test_a_provider_that_runs_a_graph_has_no_fault(run: Run) -> None:
    assert run(PROBE, **CUDA_ONLY) == "None"


def test_what_the_runtime_raises_is_the_fault(run: Run) -> None:
    text = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
    assert run(PROBE, ON_OPEN=text, **CUDA_ONLY) == text


def test_a_kernel_that_is_missing_is_the_fault_although_the_session_opens(run: Run) -> None:
    text = "CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available for execution on the device"
    assert run(PROBE, ON_RUN=text, **CUDA_ONLY) == text


def test_a_sum_that_is_wrong_is_a_fault(run: Run) -> None:
    """A launch that failed unseen leaves its output as it was."""
    assert run(PROBE, TIMES="0", **CUDA_ONLY) == "it adds 1 and 1 and gets 0"


def test_what_the_loader_misses_is_the_fault_where_the_runtime_says_nothing(run: Run, packages: Path) -> None:
    library = packages / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
    assert run(PROBE, **CPU_ONLY).endswith("cannot open shared object file: No such file or directory")
    library.write_bytes(b"")
    assert run(PROBE, **CPU_ONLY).endswith("file too short")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make a library with")
def test_a_library_that_lacks_the_runtime_alone_is_whole(run: Run, packages: Path, tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("extern int Provider_GetHost(void); int (*needed)(void) = Provider_GetHost;")
    library = packages / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "a.c"], check=True)
    assert run(PROBE, **CPU_ONLY) == "ONNX Runtime leaves it out and does not say why"


class TestSelection:
    """The whole way from `BACKEND` to a choice, on a server with a GPU."""

    def selected(self, run: Run, tmp_path: Path, environ: Mapping[str, str], providers: tuple[str, ...] = ()) -> str:
        root = str(plant(tmp_path / "root", SERVER))
        return run(SELECT.format(backend="onnxruntime", providers=providers, root=root), **environ)

    def test_cuda_is_taken_where_it_starts(self, run: Run, tmp_path: Path) -> None:
        assert self.selected(run, tmp_path, CUDA_ONLY) == "onnxruntime-cuda|available|False"

    def test_the_cpu_is_taken_aloud_where_it_does_not(self, run: Run, tmp_path: Path) -> None:
        said = self.selected(run, tmp_path, CPU_ONLY)
        name, cuda, cpu, is_fallback = said.split("|")
        assert (name, cpu, is_fallback) == ("onnxruntime-cpu", "available", "True")
        assert cuda.startswith("ONNX Runtime does not run on the GPU")

    def test_cuda_by_name_is_refused_where_it_does_not(self, run: Run, tmp_path: Path) -> None:
        text = "Failed to load library libonnxruntime_providers_cuda.so with error: libcudnn.so.9: cannot open shared"
        said = self.selected(run, tmp_path, {"ON_OPEN": text, **CUDA_ONLY}, ("cuda",))
        assert said.startswith("ORT_PROVIDERS=cuda cannot be had. CUDA does not start: one of its libraries")

    def test_the_cpu_is_taken_where_the_wheel_has_no_kernels_for_the_gpu(
        self, run: Run, packages: Path, tmp_path: Path
    ) -> None:
        library = packages / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
        library.write_bytes(elf({".nv_fatbin": fatbin((2, 89, 64), (2, 90, 64), (2, 120, 104), (2, 121, 104))}))
        root = str(plant(tmp_path / "root", ORIN))
        code = SELECT.format(backend="onnxruntime", providers=(), root=root)
        name, cuda, _, is_fallback = run(code, ON_RUN="no kernel image is available", **CUDA_ONLY).split("|")
        assert (name, is_fallback) == ("onnxruntime-cpu", "True")
        assert cuda.endswith(": this wheel has kernels for 89/90/120/121, this GPU is 8.7")

    def test_cuda_by_name_is_taken_where_it_starts(self, run: Run, tmp_path: Path) -> None:
        assert self.selected(run, tmp_path, CUDA_ONLY, ("cuda",)) == "onnxruntime-cuda|False"


@pytest.mark.parametrize(
    ("on_import", "told"),
    [
        ("raise AttributeError('_ARRAY_API not found')", "built for NumPy 1 and NumPy 2 is installed"),
        ("raise ImportError('numpy.core.multiarray failed to import')", 'pip install "numpy<2"'),
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "one of its libraries"),
        ("raise RuntimeError('something')", "install `onnxruntime`"),
    ],
)
def test_a_runtime_that_cannot_be_imported_says_why(
    run: Run, packages: Path, tmp_path: Path, on_import: str, told: str
) -> None:
    (packages / "onnxruntime" / "__init__.py").write_text(on_import, encoding="utf-8")
    said = run(SELECT.format(backend="auto", providers=(), root=str(plant(tmp_path / "root", SERVER))))
    assert said.startswith("ONNX Runtime cannot be imported")
    assert told in said
