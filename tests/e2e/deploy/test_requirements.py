"""What the images install exists for them, as wheels, with the checksums of the lock."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli
from packaging.requirements import Requirement

from tests.support.shared import REPOSITORY

pytestmark = pytest.mark.timeout(300)  # it asks an index about a hundred packages, on a busy machine for a minute

LOCKS = REPOSITORY / "requirements"

_ENTRY = re.compile(r"^(\S+==\S+)((?: ;[^\\\n]*)?) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n?)+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Target:
    """A machine that wheels must be for."""

    locks: tuple[str, ...]
    python: str
    machine: str
    environment: Mapping[str, str]


TARGETS = {
    # JetPack 6: glibc 2.35.
    "jetson": Target(("jetson", "jetson-onnxruntime"), "3.10", "aarch64", {}),
    # JetPack 7.2: glibc 2.39. The second for a wheel of ONNX Runtime that a user brings.
    "jetson7": Target(("jetson7", "jetson7-onnxruntime"), "3.12", "aarch64", {}),
    "gpu": Target(("gpu",), "3.12", "x86_64", {}),
    # On x86 the tests themselves run with it.
    "cpu-arm": Target(("cpu",), "3.11", "aarch64", {"python_full_version": "3.11.9", "sys_platform": "linux"}),
}


def read_lock(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Return each requirement of a lock by its name: as it is written, and its checksums."""
    text = (LOCKS / f"{name}.txt").read_text(encoding="utf-8")
    entries: dict[str, tuple[str, frozenset[str]]] = {}
    for requirement, marker, hashes in _ENTRY.findall(text):
        entries[f"{requirement}{marker}"] = (requirement, frozenset(re.findall(r"sha256:(\w+)", hashes)))
    return entries


def wanted(target: Target) -> dict[str, frozenset[str]]:
    """Return the requirements of a target, markers applied, with their checksums."""
    found: dict[str, frozenset[str]] = {}
    for lock in target.locks:
        for line, (requirement, hashes) in read_lock(lock).items():
            marker = Requirement(line).marker
            if marker is None or marker.evaluate(dict(target.environment)):
                found[requirement] = hashes
    return found


def name_of(requirement: str) -> str:
    return Requirement(requirement).name.lower()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What pip would download for each target: metadata alone, all targets at once."""
    folder = tmp_path_factory.mktemp("pip")
    processes = {}
    for name, target in TARGETS.items():
        listed = folder / f"{name}.txt"
        listed.write_text("\n".join(wanted(target)), encoding="utf-8")
        tags = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, 40 if name == "jetson7" else 36))]
        command = [
            sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps",
            "--only-binary=:all:", "--target", str(folder / "nowhere"), "--report", str(folder / f"{name}.json"),
            # What it must not require is the Python that runs pip here.
            "--python-version", target.python, "--implementation", "cp", "--ignore-requires-python",
            *(f"--platform={tag}_{target.machine}" for tag in tags), "--requirement", str(listed),
        ]  # fmt: skip
        processes[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    errors = {name: process.communicate(timeout=280)[1] for name, process in processes.items()}
    if any("Failed to establish" in text or "Temporary failure" in text for text in errors.values()):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no package index can be reached")
    failed = {name: errors[name] for name, process in processes.items() if process.returncode}
    assert failed == {}
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in TARGETS}


@pytest.mark.parametrize("name", TARGETS)
def test_everything_has_a_wheel_with_a_locked_checksum(reports: dict[str, Any], name: str) -> None:
    expected = {name_of(requirement): hashes for requirement, hashes in wanted(TARGETS[name]).items()}
    found = {
        entry["metadata"]["name"].lower().replace("_", "-"): entry["download_info"]["archive_info"]["hashes"]["sha256"]
        for entry in reports[name]["install"]
    }
    assert found.keys() == {each.replace("_", "-").replace(".", "-") for each in expected}
    assert [each for each, digest in found.items() if digest not in expected[each]] == []


@pytest.mark.parametrize(
    "path",
    sorted({*LOCKS.glob("*.txt")} - {LOCKS / "onnxruntime-elsewhere.txt", LOCKS / "unwanted.txt"}),
    ids=lambda path: path.stem,
)
def test_every_entry_of_a_lock_has_checksums(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    pinned = re.findall(r"^\S+==.*$", text, re.MULTILINE)
    assert pinned
    assert len(pinned) == len(read_lock(path.stem))


@pytest.mark.parametrize(
    ("lock", "python"), [("jetson", "3.10"), ("jetson7", "3.12"), ("gpu", "3.12"), ("cpu", "3.11")]
)
def test_an_image_has_what_the_code_needs(lock: str, python: str) -> None:
    """Every dependency of the package, but for the build of ONNX Runtime; `make lock-images` follows a new one."""
    project = tomli.loads(REPOSITORY.joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {}
    for line in project["dependencies"]:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            needed[requirement.name.lower()] = requirement.specifier
    locked = {name_of(line.split(" ")[0]): line.split(" ")[0].split("==")[1] for line in read_lock(lock)}
    elsewhere = {"onnxruntime"} if lock != "cpu" else set()
    assert needed.keys() - elsewhere <= locked.keys()
    assert [name for name in needed.keys() - elsewhere if not needed[name].contains(locked[name])] == []


class TestJetson:
    """What JetPack 6 bears."""

    def test_numpy_is_1(self) -> None:
        assert any(line.startswith("numpy==1.26.") for line in read_lock("jetson"))

    def test_opencv_is_the_last_for_numpy_1(self) -> None:
        assert "opencv-python-headless==4.11.0.86" in read_lock("jetson")

    def test_heic_and_avif_are_read_there_too(self) -> None:
        """Pillow's wheels bring AVIF from 11.3 on."""
        names = {name_of(line.split(" ")[0]) for line in read_lock("jetson")}
        assert {"pi-heif", "pillow", "simplejpeg"} <= names

    def test_cuda_python_is_of_the_driver_s_version(self) -> None:
        assert "cuda-python==12.6.2.post1" in read_lock("jetson")

    def test_no_onnxruntime_for_the_cpu_slips_in(self) -> None:
        """It would be found first, and everything would run on the CPU without a word."""
        for lock in ("jetson", "jetson-onnxruntime", "jetson7", "jetson7-onnxruntime", "gpu"):
            names = {name_of(line.split(" ")[0]) for line in read_lock(lock)}
            assert "onnxruntime" not in names
        assert any(line.startswith("onnxruntime-gpu==1.26") for line in read_lock("gpu"))


class TestJetson7:
    """What JetPack 7.2 has."""

    def test_numpy_is_2(self) -> None:
        assert any(line.startswith("numpy==2.") for line in read_lock("jetson7"))

    def test_cuda_python_is_of_the_image_s_cuda(self) -> None:
        assert any(line.startswith("cuda-python==13.2.") for line in read_lock("jetson7"))

    def test_thor_s_gpu_can_be_read(self) -> None:
        assert any(line.startswith("nvidia-ml-py==") for line in read_lock("jetson7"))
