"""A broken installation of TensorRT is told with its cure."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.shared import REPOSITORY

FIND = """
from jetface.runtimes.tensorrt import find_toolkit
from jetface.errors import BackendUnavailableError
try:
    print(find_toolkit().version)
except BackendUnavailableError as error:
    print(error.message)
"""


Installed = Callable[[str], str]


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """Install a package `tensorrt` that does a thing when it is imported, and return what finding it says."""

    def say(on_import: str) -> str:
        package = tmp_path / "packages" / "tensorrt"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(on_import, encoding="utf-8")
        code = f"import sys; sys.path[:0] = [{str(package.parent)!r}, {str(REPOSITORY)!r}]\n{FIND}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout.strip()

    return say


@pytest.mark.parametrize(
    ("on_import", "told"),
    [
        pytest.param(
            "raise ImportError('libnvdla_compiler.so: cannot open shared object file: No such file or directory')",
            ["libnvdla_compiler.so is missing or empty", "runtime: nvidia", "nvidia-l4t-dla-compiler"],
            id="jetson-without-nvidia-runtime",
        ),
        pytest.param(
            "raise ImportError('/usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so: file too short')",
            ["libnvdla_compiler.so is missing or empty"],
            id="jetson-with-placeholder",
        ),
        pytest.param(
            "import ctypes; ctypes.CDLL('libnvinfer.so.10')", ["its libraries are not", "libnvinfer10"], id="libnvinfer"
        ),
        pytest.param(
            "import ctypes; ctypes.CDLL('libcudart.so.99')", ["CUDA does not start", "LD_LIBRARY_PATH"], id="libcudart"
        ),
        pytest.param("import ctypes; ctypes.CDLL('libcuda.so.99')", ["the driver's library is not here"], id="driver"),
        pytest.param(
            "raise AttributeError('_ARRAY_API not found')", ["built for NumPy 1", "numpy<2"], id="built-for-numpy-1"
        ),
        pytest.param("__version__ = '8.6.1'", ["tensorrt 8.6.1 has no", "10.1 or later"], id="too-old"),
        pytest.param("pass", ["tensorrt of no version has no"], id="another-package-of-that-name"),
        pytest.param("1 / 0", ["division by zero", "jetface doctor"], id="unheard-of"),
    ],
)
def test_a_broken_installation_is_told_with_its_cure(installed: Installed, on_import: str, told: list[str]) -> None:
    said = installed(on_import)
    assert said.startswith(("TensorRT cannot be", "CUDA does not start", "A library cannot be imported"))
    assert "\n" not in said
    for words in told:
        assert words in said
