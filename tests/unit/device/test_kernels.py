"""For which GPUs a library has kernels, read from the library itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.device.checks import Kernels, kernels_cure, kernels_of, runtime_library
from tests.support.fatbins import MACHINE_CODE, PTX, elf, fatbin

OF_PYPI = fatbin((MACHINE_CODE, 89, 64), (MACHINE_CODE, 90, 64), (MACHINE_CODE, 120, 104)) + fatbin(
    (MACHINE_CODE, 90, 64), (MACHINE_CODE, 121, 104)
)
"""As in the aarch64 wheel of onnxruntime-gpu 1.31.1."""
OF_CUDA_12 = fatbin((MACHINE_CODE, 60, 64), (MACHINE_CODE, 90, 64), (PTX, 90, 80))


def read(folder: Path, content: bytes) -> Kernels | None:
    (folder / "library.so").write_bytes(content)
    return kernels_of(folder / "library.so")


def test_all_lists_of_a_library_are_read(tmp_path: Path) -> None:
    kernels = read(tmp_path, elf({".text": bytes(99), ".nv_fatbin": OF_PYPI}))
    assert str(kernels) == "89/90/120/121"


def test_ptx_is_told_apart(tmp_path: Path) -> None:
    kernels = read(tmp_path, elf({"__nv_relfatbin": OF_CUDA_12}))
    assert str(kernels) == "60/90/PTX 90"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no library",
        b"\x7fELF\x01" + bytes(99),
        elf({".text": b"code"}),
        elf({".nv_fatbin": bytes(999)}),
        elf({".nv_fatbin": OF_PYPI})[:200],
    ],
    ids=["empty", "text", "32 bits", "no list", "an empty list", "cut off"],
)
def test_what_has_no_list_has_none(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) is None


def test_a_file_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert kernels_of(tmp_path / "no.so") is None
    assert kernels_of(tmp_path) is None


@given(st.integers(0, 600), st.binary(min_size=1, max_size=40))
def test_damage_is_never_an_error_and_always_ends(
    tmp_path_factory: pytest.TempPathFactory, at: int, damage: bytes
) -> None:
    content = bytearray(elf({".nv_fatbin": OF_PYPI}))
    content[at : at + len(damage)] = damage
    found = read(tmp_path_factory.getbasetemp(), bytes(content))
    assert found is None or found.binaries or found.sources


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((8, 7), False), ((8, 9), True), ((9, 0), True), ((11, 0), False), ((12, 0), True), ((12, 1), True)],
)
def test_a_gpu_runs_code_of_its_generation_up_to_its_own_minor(
    tmp_path: Path, capability: tuple[int, int], *, runs: bool
) -> None:
    kernels = read(tmp_path, elf({".nv_fatbin": OF_PYPI}))
    assert kernels is not None
    assert kernels.run_on(capability) is runs


def test_ptx_runs_on_what_came_later() -> None:
    kernels = Kernels(frozenset({60}), frozenset({90}))
    assert kernels.run_on((12, 0))
    assert not kernels.run_on((8, 7))


@pytest.mark.parametrize(
    ("capability", "l4t", "told"),
    [
        ((8, 7), 36, "onnxruntime_gpu-1.23.0-cp310"),
        ((8, 7), None, "onnxruntime_gpu-1.23.0-cp310"),
        ((8, 7), 39, "BACKEND=tensorrt"),
        ((11, 0), 39, "BACKEND=tensorrt"),
        ((11, 0), None, "BACKEND=tensorrt"),
        ((6, 1), None, "onnxruntime-gpu==1.26.0"),
        ((12, 0), None, "built for 12.0"),
        (None, None, "pip install --upgrade onnxruntime-gpu"),
    ],
)
def test_the_cure_is_one_for_the_board_and_its_release(
    capability: tuple[int, int] | None, l4t: int | None, told: str
) -> None:
    assert told in kernels_cure(capability, jetson_l4t=l4t)


def test_the_library_is_looked_for_in_the_installed_runtime() -> None:
    assert runtime_library("shared").is_file()
