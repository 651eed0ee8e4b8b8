"""What is found on machines where something is wrong, and that nothing is found where nothing is."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jetface.device.checks import (
    Finding,
    ImportOutcome,
    Kernels,
    Packages,
    Place,
    Severity,
    installed_packages,
    preflight,
    would_stop,
)
from tests.support import machines

PlantTree = Callable[[Mapping[str, str]], Path]

JETSON_PACKAGES = {"numpy": "1.26.4", "onnxruntime-gpu": "1.23.0", "tensorrt": "10.3.0"}
JETSON_7_PACKAGES = {"numpy": "2.5.5"}
"""TensorRT's package from apt has no metadata."""
GPU_PACKAGES = {"numpy": "2.3.1", "onnxruntime-gpu": "1.27.0"}
CPU_PACKAGES = {"numpy": "2.3.1", "onnxruntime": "1.27.0"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(
        models_dir=tmp_path / "models",
        engine_dir=tmp_path / "engines",
        host="127.0.0.1",
        port=0,
        is_starting=True,
        free_memory_bytes=math.inf,
        floor_memory_bytes=2**28,
        need_disk_bytes=1,
    )


@pytest.fixture
def check(plant: PlantTree, place: Place) -> Callable[..., list[Finding]]:
    """Make every check on a machine with these files and packages."""

    def make(
        files: Mapping[str, str],
        packages: Mapping[str, str],
        *,
        backend: str = "auto",
        machine: str = "aarch64",
        outcome: ImportOutcome = ImportOutcome(0),  # noqa: B008 - it is frozen
        kernels: Kernels | None = None,
        modules: tuple[str, ...] = (),
        **changes: Any,
    ) -> list[Finding]:
        return preflight(
            Packages(
                packages,
                import_module=lambda _name: outcome,
                has_module=lambda name: name in modules,
                read_kernels=lambda: kernels,
            ),
            dataclasses.replace(place, **changes),
            backend=backend,
            machine=machine,
            root=plant(files),
        )

    return make


Check = Callable[..., list[Finding]]


def names(findings: list[Finding]) -> list[str]:
    return [finding.name for finding in findings]


@pytest.mark.parametrize(
    ("files", "packages", "machine"),
    [
        (machines.ORIN, JETSON_PACKAGES, "aarch64"),
        (machines.ORIN_R36_5, JETSON_PACKAGES, "aarch64"),
        (machines.SERVER, GPU_PACKAGES, "x86_64"),
        (machines.PLAIN, CPU_PACKAGES, "x86_64"),
        ({}, CPU_PACKAGES, "x86_64"),
    ],
    ids=["Jetson", "JetPack 6.2.2", "server", "plain", "nothing can be read"],
)
def test_where_all_is_well_nothing_is_found(
    check: Check, files: Mapping[str, str], packages: Mapping[str, str], machine: str
) -> None:
    assert check(files, packages, machine=machine) == []


def test_every_finding_says_what_why_and_how_to_mend_it(check: Check) -> None:
    """Full sentences; the worst first."""
    files = {**machines.ORIN_30W, "usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so": ""}
    packages = {**JETSON_PACKAGES, "numpy": "2.2.6"}
    findings = check(files, packages, backend="onnxruntime", outcome=ImportOutcome(-6), free_memory_bytes=1.0)
    assert names(findings) == [
        "runtime-import", "cores-offline", "dla-compiler-missing", "numpy-too-new", "memory-low", "power-mode",
        "clocks-vary",
    ]  # fmt: skip
    for finding in findings:
        assert finding.what.endswith(".")
        assert finding.why.endswith(".")
        assert finding.cure
    order = list(Severity)
    severities = [order.index(finding.severity) for finding in findings]
    assert severities == sorted(severities)


class TestCores:
    """Cores that are switched off."""

    @pytest.mark.parametrize(
        ("backend", "version", "severity"),
        [
            ("auto", "1.23.0", Severity.WARNING),
            ("onnxruntime", "1.26.0", Severity.WARNING),
            ("auto", "1.27.0", Severity.NOTE),
            ("tensorrt", "1.23.0", Severity.NOTE),
        ],
    )
    def test_they_matter_to_an_old_runtime(self, check: Check, backend: str, version: str, severity: Severity) -> None:
        packages = {**JETSON_PACKAGES, "onnxruntime-gpu": version}
        (finding,) = (f for f in check(machines.ORIN_30W, packages, backend=backend) if f.name == "cores-offline")
        assert finding.severity is severity
        assert "4 of 12" in finding.what
        assert "sudo nvpmodel -m 0" in finding.cure

    def test_other_boards_have_no_power_modes(self, check: Check) -> None:
        files = {**machines.PLAIN, "sys/devices/system/cpu/online": "0-1,3"}
        (finding,) = check(files, {"onnxruntime": "1.23.2"})
        assert finding.cure == "echo 1 | sudo tee /sys/devices/system/cpu/cpu2/online"

    def test_on_x86_they_are_nobody_s_trouble(self, check: Check) -> None:
        """Hyper-threading switched off looks like this."""
        files = {**machines.PLAIN, "sys/devices/system/cpu/online": "0-1"}
        assert check(files, {"onnxruntime": "1.23.2"}, machine="x86_64") == []


class TestGpu:
    """A GPU that is here and cannot be used."""

    @pytest.mark.parametrize(
        ("files", "word"),
        [
            (machines.ORIN_WITHOUT_RUNTIME, "runtime: nvidia"),
            (machines.SERVER_WITHOUT_TOOLKIT, "--gpus all"),
            (machines.CARD_WITHOUT_DRIVER, "nvidia-driver"),
        ],
    )
    @pytest.mark.parametrize(("backend", "severity"), [("auto", "warning"), ("tensorrt", "stop")])
    def test_out_of_reach(self, check: Check, files: Mapping[str, str], word: str, backend: str, severity: str) -> None:
        (finding,) = (
            finding for finding in check(files, GPU_PACKAGES, backend=backend) if finding.name == "gpu-unreachable"
        )
        assert finding.severity.value == severity
        assert word in finding.cure

    def test_a_board_without_the_runtime_lacks_one_thing_not_two(self, check: Check) -> None:
        """The library of the accelerator comes with the GPU."""
        assert names(check(machines.ORIN_WITHOUT_RUNTIME, JETSON_PACKAGES)) == ["gpu-unreachable"]

    @pytest.mark.parametrize(
        ("files", "packages", "severity", "word"),
        [
            (machines.SERVER, CPU_PACKAGES, "warning", "onnxruntime-gpu"),
            (machines.ORIN, {"numpy": "1.26.4", "onnxruntime": "1.23.2"}, "warning", "linux_aarch64.whl"),
            (machines.SERVER, {**CPU_PACKAGES, "tensorrt-cu12": "10.3.0"}, "note", "onnxruntime-gpu"),
        ],
    )
    def test_a_wheel_for_the_cpu_only(
        self, check: Check, files: Mapping[str, str], packages: Mapping[str, str], severity: str, word: str
    ) -> None:
        (finding,) = check(files, packages)
        assert (finding.name, finding.severity.value) == ("cpu-only-runtime", severity)
        assert word in finding.cure

    @pytest.mark.parametrize(
        ("files", "packages", "severity", "word"),
        [
            (machines.ORIN, {"numpy": "2.3.1", "onnxruntime-gpu": "1.31.1"}, "warning", "linux_aarch64.whl"),
            (machines.ORIN, {"onnxruntime-gpu": "1.31.1", "tensorrt": "10.3.0"}, "note", "linux_aarch64.whl"),
        ],
    )
    def test_a_wheel_without_kernels_for_it(
        self, check: Check, files: Mapping[str, str], packages: Mapping[str, str], severity: str, word: str
    ) -> None:
        (finding,) = check(files, packages, kernels=Kernels(frozenset({89, 90, 120, 121})))
        assert (finding.name, finding.severity.value) == ("wheel-without-kernels", severity)
        assert finding.what.endswith("this wheel has kernels for 89/90/120/121, this GPU is 8.7.")
        assert word in finding.cure

    @pytest.mark.parametrize(("files", "backend"), [(machines.ORIN, "tensorrt"), (machines.SERVER, "auto")])
    def test_kernels_are_nobody_s_trouble_where_they_are_not_used_or_the_gpu_is_not_known(
        self, check: Check, files: Mapping[str, str], backend: str
    ) -> None:
        packages = {"onnxruntime-gpu": "1.31.1", "tensorrt": "10.3.0"}
        assert check(files, packages, backend=backend, kernels=Kernels(frozenset({90}))) == []

    def test_openvino_wants_no_gpu(self, check: Check) -> None:
        assert check(machines.SERVER, CPU_PACKAGES, backend="openvino", machine="x86_64") == []

    def test_two_wheels_in_one_folder(self, check: Check) -> None:
        (finding,) = check(machines.SERVER, {**GPU_PACKAGES, "onnxruntime": "1.27.0"})
        assert finding.name == "two-runtimes"

    @pytest.mark.parametrize("content", ["", None], ids=["empty", "missing"])
    @pytest.mark.parametrize(("backend", "severity"), [("auto", "warning"), ("tensorrt", "stop")])
    def test_the_library_that_only_the_host_has(
        self, check: Check, content: str | None, backend: str, severity: str
    ) -> None:
        files = {name: text for name, text in machines.ORIN.items() if not name.startswith("usr/")}
        if content is not None:
            files["usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so"] = content
        (finding,) = check(files, JETSON_PACKAGES, backend=backend)
        assert (finding.name, finding.severity.value) == ("dla-compiler-missing", severity)
        assert "nvidia-l4t-dla-compiler" in finding.cure

    def test_the_image_s_own_copy_will_do(self, check: Check) -> None:
        """entrypoint.sh puts it into the search path."""
        files = {name: text for name, text in machines.ORIN.items() if not name.startswith("usr/")}
        assert check({**files, "opt/dla/libnvdla_compiler.so": "library"}, JETSON_PACKAGES) == []


class TestJetPack:
    """The host's release and the image's TensorRT."""

    @pytest.mark.parametrize("backend", ["auto", "tensorrt"])
    @pytest.mark.parametrize("files", [machines.ORIN_R39, machines.THOR], ids=["Orin", "Thor"])
    def test_jetpack_7_with_its_own_image(self, check: Check, files: Mapping[str, str], backend: str) -> None:
        """No DLA compiler is asked for; that ONNX Runtime is left out is worth a note."""
        findings = check(files, JETSON_7_PACKAGES, backend=backend, modules=("tensorrt",))
        expected = [("runtime-import", Severity.NOTE)] if backend == "auto" else []
        assert [(each.name, each.severity) for each in findings] == expected

    @pytest.mark.parametrize(("backend", "severity"), [("auto", "warning"), ("tensorrt", "stop")])
    def test_the_image_for_jetpack_6_on_a_host_without_its_library(
        self, check: Check, backend: str, severity: str
    ) -> None:
        """There is no package to install: the cure is another image."""
        files = {name: text for name, text in machines.ORIN_R39.items() if "libnvinfer" not in name}
        findings = {each.name: each for each in check(files, JETSON_PACKAGES, backend=backend)}
        found = findings["dla-compiler-missing"]
        assert found.severity.value == severity
        assert "apt install" not in found.cure
        assert "deploy/jetson/Dockerfile.jp7" in found.cure

    def test_the_image_for_jetpack_6_with_its_own_copy_may_run_there(self, check: Check) -> None:
        files = {
            **{name: text for name, text in machines.ORIN_R39.items() if "libnvinfer" not in name},
            "opt/dla/libnvdla_compiler.so": "library",
        }
        (found,) = check(files, JETSON_PACKAGES)
        assert (found.name, found.severity) == ("other-jetpack", Severity.NOTE)
        assert "compose.jetson7.yaml" in found.cure

    @pytest.mark.parametrize(
        ("files", "tensorrt", "words"),
        [
            pytest.param(machines.ORIN, "10.16.2", ("L4T 36", "CUDA 13", "Dockerfile.jetson"), id="7's image on 6"),
            pytest.param(machines.ORIN_R36_5, "10.13.0", ("L4T 36", "Dockerfile.jetson"), id="7.0's image on 6.2.2"),
            pytest.param(machines.THOR, "10.3.0", ("L4T 39", "Thor", "Dockerfile.jp7"), id="6's image on Thor"),
            pytest.param(
                {**machines.ORIN, "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 1\n"},
                "10.3.0", ("L4T 35", "Flash", "6.2 or 7.2"), id="JetPack 5",
            ),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize(("backend", "severity"), [("auto", "warning"), ("tensorrt", "stop")])
    def test_another_release_than_the_image_is_for(
        self, check: Check, files: Mapping[str, str], tensorrt: str, words: Sequence[str], backend: str, severity: str
    ) -> None:
        packages = {**JETSON_PACKAGES, "tensorrt": tensorrt}
        kept = {name: text for name, text in files.items() if "libnvinfer" not in name}
        (found,) = (each for each in check(kept, packages, backend=backend) if each.name == "other-jetpack")
        assert found.severity.value == severity
        assert all(word in f"{found.what} {found.why} {found.cure}" for word in words)

    def test_where_tensorrt_is_not_used_its_release_does_not_matter(self, check: Check) -> None:
        packages = {**JETSON_PACKAGES, "tensorrt": "10.16.2"}
        assert check(machines.ORIN, packages, backend="onnxruntime") == []

    def test_a_wheel_for_cpus_is_not_mended_with_one_for_jetpack_6(self, check: Check) -> None:
        packages = {**JETSON_7_PACKAGES, "onnxruntime": "1.31.1"}
        (found,) = check(machines.ORIN_R39, packages, backend="onnxruntime")
        assert found.name == "cpu-only-runtime"
        assert "BACKEND=tensorrt" in found.cure
        assert "cp310" not in found.cure


BOARDS: Mapping[str, tuple[Mapping[str, str], str]] = {
    "Orin, R36.4": (machines.ORIN, "10.3.0"),
    "Orin, R36.5": (machines.ORIN_R36_5, "10.3.0"),
    "Orin, R39.2": (machines.ORIN_R39, "10.16.2"),
    "Thor, R39.2": (machines.THOR, "10.16.2"),
}
"""Files of a board in the image that is made for it, and that image's TensorRT."""


@pytest.mark.parametrize("board", BOARDS)
class TestEveryBoard:
    """What goes wrong on boards: one finding each, its cure for that release. With `BACKEND=auto` all of them start."""

    def found(self, check: Check, board: str, *, lacking: tuple[str, ...] = (), **others: Any) -> dict[str, Finding]:
        files, tensorrt = BOARDS[board]
        kept = {name: text for name, text in files.items() if not name.startswith(lacking or "-")}
        packages = {"numpy": "1.26.4", "tensorrt": tensorrt, "onnxruntime-gpu": "1.24.4", **others.pop("packages", {})}
        findings = check({**kept, **others.pop("files", {})}, packages, **others)
        assert not would_stop(findings)
        return {each.name: each for each in findings}

    def test_nothing_is_found_where_all_is_well(self, check: Check, board: str) -> None:
        assert self.found(check, board) == {}

    def test_the_image_of_the_other_jetpack(self, check: Check, board: str) -> None:
        is_old = "R36" in board
        finding = self.found(
            check, board,
            packages={"tensorrt": "10.16.2" if is_old else "10.3.0"},
            lacking=("usr/lib/aarch64-linux-gnu/libnvinfer",),
        )["other-jetpack"]  # fmt: skip
        assert ("compose.jetson.yaml" if is_old else "compose.jetson7.yaml") in finding.cure

    def test_a_wheel_without_kernels(self, check: Check, board: str) -> None:
        finding = self.found(check, board, kernels=Kernels(frozenset({89, 90, 120, 121})))["wheel-without-kernels"]
        assert f"this GPU is {'11.0' if 'Thor' in board else '8.7'}" in finding.what
        assert ("cp310" if "R36" in board else "BACKEND=tensorrt") in finding.cure

    @pytest.mark.parametrize("content", ["", None], ids=["empty", "missing"])
    def test_the_mounted_library(self, check: Check, board: str, content: str | None) -> None:
        """Which JetPack 7 neither has nor needs."""
        name = "usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so"
        found = self.found(check, board, lacking=(name,), files={} if content is None else {name: content})
        assert set(found) == ({"dla-compiler-missing"} if "R36" in board else set())
        assert all("apt install nvidia-l4t-dla-compiler" in finding.cure for finding in found.values())

    def test_docker_without_the_nvidia_runtime(self, check: Check, board: str) -> None:
        (finding,) = self.found(check, board, lacking=("dev/", "usr/")).values()
        assert finding.name == "gpu-unreachable"
        assert "runtime: nvidia" in finding.cure

    def test_cores_that_the_power_mode_switches_off(self, check: Check, board: str) -> None:
        files = {"sys/devices/system/cpu/online": "0-7\n", "var/lib/nvpmodel/status": "pmode:0002\n"}
        found = self.found(check, board, files=files)
        assert "nvpmodel -m 0" in found["cores-offline"].cure
        assert "out of bounds" in found["cores-offline"].why

    def test_a_full_tmp(self, check: Check, board: str) -> None:
        (finding,) = self.found(check, board, need_temporary_bytes=2**60).values()
        assert (finding.name, "Start the container anew" in finding.cure) == ("tmp-full", True)


class TestPackages:
    """What is installed, and whether it loads."""

    def test_a_numpy_that_the_jetson_wheel_cannot_bear(self, check: Check) -> None:
        (finding,) = check(machines.ORIN, {**JETSON_PACKAGES, "numpy": "2.2.6"})
        assert finding.name == "numpy-too-new"
        assert "numpy<2" in finding.cure

    @pytest.mark.parametrize("packages", [{**JETSON_PACKAGES, "onnxruntime-gpu": "1.24.1", "numpy": "2.2.6"}])
    def test_a_later_wheel_bears_it(self, check: Check, packages: Mapping[str, str]) -> None:
        assert check(machines.ORIN, packages) == []

    @pytest.mark.parametrize(
        ("outcome", "words"),
        [
            (ImportOutcome(-6), "crashed with SIGABRT"),
            (ImportOutcome(1, "ImportError: libcudnn.so.9: cannot open shared object file"), "libcudnn.so.9"),
            (ImportOutcome(3), "exit code 3"),
        ],
    )
    @pytest.mark.parametrize(
        ("packages", "backend", "severity"),
        [
            (GPU_PACKAGES, "auto", "stop"),
            (JETSON_PACKAGES, "auto", "warning"),
            (JETSON_PACKAGES, "onnxruntime", "stop"),
        ],
        ids=["auto has nothing else", "auto has TensorRT", "it is asked for"],
    )
    def test_a_runtime_that_does_not_load(
        self,
        check: Check,
        outcome: ImportOutcome,
        words: str,
        packages: Mapping[str, str],
        backend: str,
        severity: str,
    ) -> None:
        (finding,) = check(machines.ORIN, packages, backend=backend, outcome=outcome)
        assert (finding.name, finding.severity.value) == ("runtime-import", severity)
        assert words in finding.what

    @pytest.mark.parametrize("backend", ["tensorrt", "openvino"])
    def test_it_is_not_imported_where_it_is_not_asked_for(self, check: Check, backend: str) -> None:
        assert check(machines.ORIN, JETSON_PACKAGES, backend=backend, outcome=ImportOutcome(-6)) == []

    def test_a_runtime_that_is_not_there(self, check: Check) -> None:
        findings = check(machines.PLAIN, {"numpy": "2.3.1"}, machine="x86_64")
        assert would_stop(findings)
        assert "not installed" in findings[0].what

    def test_an_image_for_engines_alone_needs_none(self, check: Check) -> None:
        (finding,) = check(machines.ORIN, {"tensorrt": "10.3.0"})
        assert (finding.name, finding.severity) == ("runtime-import", Severity.NOTE)

    def test_what_is_installed_here(self) -> None:
        versions = installed_packages()
        assert "onnxruntime" in versions
        assert Packages(versions).runtime_version is not None
        assert Packages({"onnxruntime": "1.27.0.dev1+cu12"}).runtime_version == (1, 27, 0)
        assert Packages({}).runtime_version is None
        assert not Packages({"tensorrt-rtx-cu13-bindings": "1.7"}, has_module=lambda _: False).has_tensorrt

    def test_a_tensorrt_without_metadata_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a package of the operating system may come."""
        assert not Packages({}).has_tensorrt
        (tmp_path / "tensorrt").mkdir()
        (tmp_path / "tensorrt" / "__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        assert Packages({}).has_tensorrt


class TestPlace:
    """Folders, disk, memory, port."""

    @pytest.fixture
    def taken(self) -> Iterator[Callable[[bytes], int]]:
        """A port on which somebody listens, who answers every connection alike and closes it."""

        def answer(listener: socket.socket, body: bytes) -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)

        with contextlib.ExitStack() as stack:

            def listen(body: bytes) -> int:
                listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                thread = threading.Thread(target=answer, args=[listener, body], daemon=True)
                thread.start()
                stack.callback(listener.shutdown, socket.SHUT_RDWR)
                return int(listener.getsockname()[1])

            yield listen

    @pytest.mark.parametrize(
        ("is_starting", "body", "severity"),
        [(True, b'{"status": "alive"}', "stop"), (False, b'{"status": "alive"}', "note"), (False, b"else", "stop")],
    )
    def test_a_port_in_use(
        self, check: Check, taken: Callable[[bytes], int], is_starting: bool, body: bytes, severity: str
    ) -> None:
        """While the service runs it may be the service's own: whoever listens is asked."""
        port = taken(body)
        (finding,) = check(machines.PLAIN, CPU_PACKAGES, port=port, is_starting=is_starting)
        assert (finding.name, finding.severity.value) == ("port-in-use", severity)
        assert str(port) in finding.what

    @pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
    def test_an_address_that_is_not_ours(self, check: Check, host: str) -> None:
        (finding,) = check(machines.PLAIN, CPU_PACKAGES, host=host)
        assert (finding.name, finding.severity) == ("address-unusable", Severity.STOP)

    def test_a_folder_that_cannot_be_written(self, check: Check) -> None:
        """`/proc` takes no file, whoever asks."""
        (finding,) = check(machines.PLAIN, CPU_PACKAGES, models_dir=Path("/proc/models"))
        assert finding.name == "folder-read-only"
        assert f"chown -R {os.getuid()}" in finding.cure

    def test_a_file_in_the_place_of_a_folder(self, check: Check, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert names(check(machines.PLAIN, CPU_PACKAGES, models_dir=tmp_path / "file/models")) == ["folder-read-only"]

    def test_engines_need_a_folder_only_where_they_are_built(self, check: Check) -> None:
        nowhere = Path("/proc/engines")
        assert check(machines.PLAIN, CPU_PACKAGES, engine_dir=nowhere) == []
        assert names(check(machines.SERVER, GPU_PACKAGES, engine_dir=nowhere)) == ["folder-read-only"]
        assert check(machines.SERVER, GPU_PACKAGES, engine_dir=None) == []

    def test_a_full_disk(self, check: Check) -> None:
        (finding,) = check(machines.PLAIN, CPU_PACKAGES, need_disk_bytes=2**60)
        assert finding.name == "disk-full"

    @pytest.mark.parametrize(
        "changes", [{"need_temporary_bytes": 2**60}, {"temporary_dir": Path("/proc")}, {"temporary_dir": Path("/no")}]
    )
    def test_no_room_for_temporary_files(self, check: Check, changes: Mapping[str, object]) -> None:
        """A container's own is small, and nothing empties it."""
        (finding,) = check(machines.ORIN, JETSON_PACKAGES, **changes)
        assert (finding.name, finding.severity) == ("tmp-full", Severity.WARNING)
        assert "Start the container anew" in finding.cure

    @pytest.mark.parametrize(
        ("files", "free_bytes", "expected"),
        [
            (machines.PLAIN, 2**28 - 1, ["memory-low"]),
            (machines.PLAIN, 2**28, []),
            (machines.SERVER, 2**31, ["memory-low-for-builds"]),
            (machines.SERVER, 2**32, []),
        ],
    )
    def test_little_memory(
        self, check: Check, files: Mapping[str, str], free_bytes: float, expected: list[str]
    ) -> None:
        assert names(check(files, GPU_PACKAGES, free_memory_bytes=free_bytes)) == expected


class TestPower:
    """Settings of a Jetson that cost speed."""

    @pytest.mark.parametrize(
        ("status", "modes", "is_found"),
        [
            ("pmode:0000", "", False),
            ("pmode:0002", "< POWER_MODEL ID=2 NAME=MAXN_SUPER >", False),
            ("pmode:0002", "", True),
            ("pmode:0000", "< POWER_MODEL ID=0 NAME=15W >", True),
            ("", "", False),
        ],
    )
    def test_the_mode(self, check: Check, status: str, modes: str, *, is_found: bool) -> None:
        files = {**machines.ORIN, "var/lib/nvpmodel/status": status, "etc/nvpmodel.conf": modes}
        assert names(check(files, JETSON_PACKAGES)) == (["power-mode"] if is_found else [])

    def test_clocks_that_follow_the_load(self, check: Check) -> None:
        files = {**machines.ORIN, "sys/class/devfreq/17000000.gpu/min_freq": "306000000"}
        (finding,) = check(files, JETSON_PACKAGES)
        assert (finding.name, finding.severity) == ("clocks-vary", Severity.NOTE)
        assert "jetson_clocks" in finding.cure
