"""Finding TensorRT, in every state that its installation can be in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from jetface.errors import BackendUnavailableError
from jetface.runtimes.tensorrt import RTX, TENSORRT, Toolkit, find_toolkit
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


def test_none_at_all_is_told_with_its_cure() -> None:
    """As it is here, where only TensorRT for RTX may be installed: that one is never taken unasked."""
    found: list[str] = []

    def nothing(name: str) -> ModuleType:
        found.append(name)
        raise ModuleNotFoundError(f"No module named '{name}'")

    with pytest.raises(BackendUnavailableError, match=r"it is not installed\. Install it: `apt install python3-libnv"):
        find_toolkit(import_module=nothing)
    assert found == [TENSORRT]
    with pytest.raises(BackendUnavailableError) as caught:
        find_toolkit(with_rtx=True, import_module=nothing)
    assert found[1:] == [TENSORRT, RTX, "tensorrt_rtx_bindings"]
    assert caught.value.details.keys() == {"what", "why", "cure"}


def test_the_one_for_rtx_is_taken_where_it_is_asked_for(toolkit: Toolkit) -> None:
    assert toolkit.name == RTX
    assert toolkit.version == toolkit.trt.__version__
    assert not toolkit.keeps_timings


class TestVersions:
    """What differs, version by version. Only the one for RTX is installed: the others are their names."""

    def flags_of(self, toolkit: Toolkit, **flags: int) -> int:
        return replace(
            toolkit, trt=SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(**flags))
        ).network_flags()

    def test_a_network_is_strongly_typed_with_every_version(self, toolkit: Toolkit) -> None:
        assert self.flags_of(toolkit, EXPLICIT_BATCH=0, STRONGLY_TYPED=1) == 0b11, "10"
        assert self.flags_of(toolkit, STRONGLY_TYPED=1) == 0b10, "11"
        flag = toolkit.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        builder = toolkit.trt.Builder(toolkit.relay.logger)
        assert builder.create_network(toolkit.network_flags()).get_flag(flag)

    def test_half_precision_is_asked_for_where_a_version_says(self, toolkit: Toolkit) -> None:
        assert not toolkit.has_fast_fp16(SimpleNamespace(platform_has_fast_fp16=False))
        assert toolkit.has_fast_fp16(SimpleNamespace())

    def test_a_parser_adjusts_for_accelerators_where_it_can(self, toolkit: Toolkit) -> None:
        asked: list[str] = []
        parser = SimpleNamespace(set_flag=asked.append)
        for flags in (SimpleNamespace(), SimpleNamespace(ADJUST_FOR_DLA="adjust")):
            replace(toolkit, trt=SimpleNamespace(OnnxParserFlag=flags)).adjust_for_accelerator(parser)
        assert asked == ["adjust"]
