"""`check_libraries.py`: the builds of the Jetson images end where something is linked to what is nowhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import tomli

from tests.support.dockerfiles import Dockerfile
from tests.support.elf import write_library
from tests.support.shared import REPOSITORY

SCRIPT = REPOSITORY / "deploy/jetson/check_libraries.py"
RECORDED = tomli.loads(Path(__file__).with_name("jetson_libraries.toml").read_text(encoding="utf-8"))
IMAGES = {
    "jetson": (REPOSITORY / "Dockerfile.jetson", {}, "jetpack6"),
    "slim": (REPOSITORY / "deploy/jetson/Dockerfile.slim", {}, "jetpack6"),
    "slim-onnxruntime": (REPOSITORY / "deploy/jetson/Dockerfile.slim", {"VARIANT": "onnxruntime"}, "jetpack6"),
    "jp7": (REPOSITORY / "deploy/jetson/Dockerfile.jp7", {}, "jetpack7"),
    "jp7-onnxruntime": (REPOSITORY / "deploy/jetson/Dockerfile.jp7", {"VARIANT": "onnxruntime"}, "jetpack7"),
}
X86 = 62


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run it, with the test's folder as LD_LIBRARY_PATH: the system's libraries are of another machine."""

    def run(*arguments: object, library_path: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
            env={"LD_LIBRARY_PATH": str(tmp_path) if library_path is None else library_path},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


Check = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.skipif(shutil.which("ldd") is None, reason="no ldd here")
def test_it_finds_what_ldd_finds(check: Check) -> None:
    """On the libraries of this machine's ONNX Runtime, every one of them where ld.so would take it from."""
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/onnxruntime_pybind11_state*.so")
    listed = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=True).stdout
    expected = dict(re.findall(r"^\s*(\S+) => (/\S+)", listed, re.MULTILINE))
    done = check(library, library_path="")
    assert (done.returncode, done.stderr) == (0, "")
    found = {name: Path(path) for name, path in re.findall(r"^(\S+): (/.*)$", done.stdout, re.MULTILINE)}
    assert expected
    assert {name: found[name].resolve() for name in expected} == {n: Path(p).resolve() for n, p in expected.items()}


def test_what_is_missing_is_named_once_with_all_who_need_it(check: Check, tmp_path: Path) -> None:
    for name in ("libnvinfer_plugin.so.10", "libother.so"):
        write_library(tmp_path / name, ["libcudla.so.1"])
    done = check("--l4t", "36", tmp_path / "lib*.so*")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "libcudla.so.1, needed by libnvinfer_plugin.so.10, libother.so, is not here" in line
    assert "apt-cache search libcudla" in line


def test_what_is_needed_is_followed_to_the_end(check: Check, tmp_path: Path) -> None:
    write_library(tmp_path / "a.so", ["b.so"])
    write_library(tmp_path / "b.so", ["c.so", "a.so"])
    write_library(tmp_path / "c.so", ["d.so"])
    done = check(tmp_path / "a.so")
    assert done.returncode == 1
    assert "d.so, needed by c.so, is not here" in done.stderr


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"placeholder"], ids=["empty", "cut off", "no library"])
def test_a_file_that_ends_the_search_is_told(check: Check, tmp_path: Path, content: bytes) -> None:
    """Images of NVIDIA's hold empty files; ldd stops at one, and says nothing of the rest."""
    write_library(tmp_path / "a.so", ["b.so", "c.so"])
    (tmp_path / "b.so").write_bytes(content)
    done = check(tmp_path / "a.so")
    assert done.returncode == 1
    assert re.search(r"b\.so is (empty|no library)", done.stderr)
    assert "c.so, needed by a.so, is not here" in done.stderr


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_what_the_host_mounts_need_not_be_there(check: Check, tmp_path: Path, content: bytes | None) -> None:
    write_library(tmp_path / "a.so", ["libcuda.so.1"])
    if content is not None:
        (tmp_path / "libcuda.so.1").write_bytes(content)
    done = check("--l4t", "36", tmp_path / "a.so")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "libcuda.so.1: mounted by the host (nvidia-l4t-cuda), for a.so\n"


def test_hosts_of_jetpack_7_mount_no_dla_compiler(check: Check, tmp_path: Path) -> None:
    write_library(tmp_path / "a.so", ["libnvdla_compiler.so"])
    assert check("--l4t", "36", tmp_path / "a.so").returncode == 0
    assert check("--l4t", "39", tmp_path / "a.so").returncode == 1


def test_a_library_of_another_machine_is_passed_over(check: Check, tmp_path: Path) -> None:
    write_library(tmp_path / "a.so", ["b.so"])
    write_library(tmp_path / "x86/b.so", machine=X86)
    write_library(tmp_path / "arm/b.so")
    done = check(tmp_path / "a.so", library_path=f"{tmp_path}/x86:{tmp_path}/arm")
    assert (done.returncode, done.stdout) == (0, f"b.so: {tmp_path}/arm/b.so\n")


@pytest.mark.parametrize("kind", ["rpath", "runpath"])
def test_a_library_says_itself_where_to_look(check: Check, tmp_path: Path, kind: str) -> None:
    """As wheels do. What DT_RPATH says holds for what is loaded through it too, DT_RUNPATH for itself alone."""
    write_library(tmp_path / "a.so", ["b.so"], **{kind: "$ORIGIN/lib"})  # type: ignore[arg-type]
    write_library(tmp_path / "lib/b.so", ["c.so"])
    write_library(tmp_path / "lib/c.so")
    done = check(tmp_path / "a.so", library_path="")
    assert f"b.so: {tmp_path}/lib/b.so" in done.stdout
    assert done.returncode == (0 if kind == "rpath" else 1)


def test_libraries_that_must_be_there_are_told_from_those_that_need_not(check: Check, tmp_path: Path) -> None:
    write_library(tmp_path / "a.so")
    done = check(tmp_path / "a.so", "--if-there", tmp_path / "onnxruntime*.so")
    assert done.returncode == 0
    done = check(tmp_path / "a.so", tmp_path / "libnvinfer.so.10")
    assert done.returncode == 1
    assert "libnvinfer.so.10 is not here." in done.stderr


def checked(image: Dockerfile) -> list[str]:
    """Return the arguments an image's build gives to the check."""
    (run,) = (each.value for each in image.chain("checked") if "check_libraries.py --l4t" in each.value)
    return [word.strip("'") for word in run.partition("check_libraries.py")[2].partition(">")[0].split()]


def plant(folder: Path, libraries: Mapping[str, Any], packages: set[str], arguments: list[str]) -> list[str]:
    """Write what these packages bring where an image's check looks for it; return the arguments for this folder."""
    place_by_name = {}
    for pattern in (each for each in arguments if not Path(each).name.startswith("*")):
        for name in libraries:
            if re.fullmatch(re.escape(Path(pattern).name).replace(r"\*", ".*"), name):
                place_by_name[name] = pattern.replace("*", "").lstrip("/").rpartition("/")[0]
    for name, library in libraries.items():
        if library["package"] in packages:
            place = place_by_name.get(name, "usr/lib/aarch64-linux-gnu")
            write_library(folder / place.replace("python3", "python3.10") / name, library["needed"])
    return [f"{folder}{each}" if each.startswith("/") else each for each in arguments]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_s_packages_bring_all_that_is_needed(check: Check, tmp_path: Path, name: str) -> None:
    """With what its Dockerfile installs, on what NVIDIA's libraries are known to be linked to."""
    path, build_args, jetpack = IMAGES[name]
    image = Dockerfile.read(path, **build_args)
    recorded = RECORDED[jetpack]
    everything = {library["package"] for library in recorded["libraries"].values()}
    installed = {package.partition("=")[0] for package in image.apt_packages()}
    # NVIDIA's own image has all of CUDA and TensorRT.
    packages = everything if "l4t-jetpack" in image.arguments["BASE_IMAGE"] else installed
    arguments = plant(tmp_path, recorded["libraries"], packages, checked(image))
    assert arguments[:2] == ["--l4t", str(recorded["l4t"])]
    folder = f"{tmp_path}/usr/lib/aarch64-linux-gnu"
    done = check(*arguments, library_path=folder)
    assert (done.returncode, done.stderr) == (0, "")
    for package in everything & installed:
        less = tmp_path / package
        done = check(
            *plant(less, recorded["libraries"], packages - {package}, checked(image)),
            library_path=f"{less}/usr/lib/aarch64-linux-gnu",
        )
        assert (done.returncode == 1) == (package not in {"cuda-cudart-12-6", "cuda-cudart-13-2"}), package


def test_every_recorded_library_says_where_it_was_read() -> None:
    for jetpack in RECORDED.values():
        for library in jetpack["libraries"].values():
            assert len(library["source"]) > 10


@pytest.mark.parametrize("name", IMAGES)
def test_no_image_is_built_without_the_check(name: str) -> None:
    """What runs takes the check's answer, so that no builder may leave the stage out."""
    path, build_args, _ = IMAGES[name]
    image = Dockerfile.read(path, **build_args)
    assert any(each.flag("from") == "checked" for each in image.chain())
    stage = next(each for each in image.stages if each.name == "checked")
    assert stage.base == next(each for each in image.stages if each.name == "runtime").base
    must = [each for each in checked(image) if each.startswith("/usr/lib")]
    for library in ("libnvinfer.so", "libnvinfer_plugin.so", "libnvonnxparser.so", "tensorrt"):
        assert any(library in each for each in must)
    assert any("onnxruntime" in each for each in checked(image))
    # Read with the search path of what runs.
    assert "LD_LIBRARY_PATH" in image.environment("checked")
