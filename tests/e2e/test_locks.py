"""Locks of users resolve to wheels, for Pythons that this machine has not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.shared import REPOSITORY

UV = Path(sys.executable).parent / "uv"


@pytest.mark.skipif(not UV.exists(), reason="uv is not in this environment")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("lock", ["run", "cpu"])
@pytest.mark.parametrize("python", ["3.12", "3.14"])
def test_every_package_has_a_wheel(python: str, lock: str, machine: str, tmp_path: Path) -> None:
    """The glibc is that of the distributions which ship such a Python."""
    options = ["--dry-run", "--only-binary", ":all:", "--no-deps", "--require-hashes", "--target", str(tmp_path)]
    where = ["--python-version", python, "--python-platform", f"{machine}-manylinux_2_39"]
    done = subprocess.run(
        [str(UV), "pip", "install", *options, *where, "--requirement", f"requirements/{lock}.txt"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    if "error sending request" in done.stderr.lower() or "dns error" in done.stderr.lower():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no package index answers")
    assert done.returncode == 0, done.stderr
