"""Kernels are looked for in what a real linker writes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from jetface.device.checks import kernels_of
from tests.unit.device.test_kernels import OF_PYPI


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make a library with")
def test_a_library_of_a_real_linker_is_read(tmp_path: Path) -> None:
    values = ",".join(map(str, OF_PYPI))
    source = f'__attribute__((section(".nv_fatbin"), aligned(8))) const unsigned char list[] = {{{values}}};'
    (tmp_path / "a.c").write_text(source, encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "a.so", tmp_path / "a.c"], check=True)
    assert str(kernels_of(tmp_path / "a.so")) == "89/90/120/121"
