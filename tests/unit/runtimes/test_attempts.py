"""What is tried at start, what is said when it fails, and what is taken then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from jetface.device.checks import Kernels
from jetface.device.faults import Fault
from jetface.device.machine import find_gpu
from jetface.errors import BackendUnavailableError
from jetface.runtimes.choose import (
    AVAILABLE,
    Attempt,
    BackendName,
    Host,
    Selection,
    cuda_fault,
    gpu_fault,
    select_backend,
)
from jetface.runtimes.cuda import CudaError
from jetface.runtimes.tensorrt import Toolkit, find_toolkit, unavailable
from jetface.runtimes.tensorrt_build import TensorrtKit
from tests.support.fake_cuda import FakeCuda
from tests.support.machines import (
    CARD_WITHOUT_DRIVER,
    ORIN,
    ORIN_30W,
    ORIN_R36_5,
    ORIN_R39,
    ORIN_WITHOUT_RUNTIME,
    PLAIN,
    SERVER,
    SERVER_WITHOUT_TOOLKIT,
    THOR,
    plant,
)

NVDLA = "libnvdla_compiler.so: cannot open shared object file: No such file or directory"
TOO_OLD = "cudaMemGetInfo: cudaErrorInsufficientDriver, CUDA driver version is insufficient for CUDA runtime version"
MISSES_CUDNN = "Failed to load library libonnxruntime_providers_cuda.so with error: libcudnn.so.9: cannot open shared"


def rtx() -> Toolkit:
    return find_toolkit(with_rtx=True)


def raising(error: Exception) -> Callable[[], Any]:
    def probe() -> Any:
        raise error

    return probe


def importing(text: str) -> Callable[[], Toolkit]:
    """Look for TensorRT where its import fails with a text."""
    return lambda: find_toolkit(import_module=lambda _name: raising(ImportError(text))())


@dataclass(frozen=True)
class Machine:
    """Makes host of machines that have all that GPUs need, less what a test takes away."""

    folder: Path

    def host(self, files: Mapping[str, str], **others: Any) -> Host:
        host = Host(
            root=plant(self.folder, files),
            find_toolkit=rtx,
            open_cuda=FakeCuda,
            provider_fault=lambda _provider: None,
            is_installed=lambda name: name == "onnxruntime-gpu",
            read_kernels=lambda: None,
            machine="x86_64",
        )
        return replace(host, **others)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


def outcomes(selection: Selection) -> dict[str, str]:
    return {attempt.name: attempt.outcome for attempt in selection.attempts}


class TestAuto:
    def test_takes_tensorrt_first_and_onnx_runtime_until_engines_are_built(self, machine: Machine) -> None:
        selection = select_backend("auto", host=machine.host(SERVER))
        assert isinstance(selection.engines, TensorrtKit)
        assert selection.onnx is not None
        assert outcomes(selection)["tensorrt"] == AVAILABLE
        assert not selection.is_on_cpu
        assert not selection.is_fallback
        assert selection.name == "tensorrt_rtx or onnxruntime-cpu"

    @pytest.mark.parametrize("files", [ORIN, ORIN_R36_5, ORIN_R39, THOR], ids=["R36.4", "R36.5", "R39.2", "Thor"])
    def test_takes_tensorrt_on_every_jetson_whether_onnx_runtime_is_there_or_not(
        self, machine: Machine, files: Mapping[str, str]
    ) -> None:
        for others in ({}, {"is_installed": lambda _name: False}):
            selection = select_backend("auto", host=machine.host(files, machine="aarch64", **others))
            assert isinstance(selection.engines, TensorrtKit)
            assert not selection.is_on_cpu

    def test_says_nothing_of_gpus_above_debug_on_a_machine_without_one(self, machine: Machine) -> None:
        with capture_logs() as logs:
            selection = select_backend("auto", host=machine.host(PLAIN, find_toolkit=raising(AssertionError())))
        assert selection.is_on_cpu
        assert not selection.is_fallback
        assert "GPU" not in str([line for line in logs if line["log_level"] != "debug"])
        assert {line["log_level"] for line in logs} == {"debug", "info"}
        for name in ("tensorrt", "onnxruntime-cuda"):
            assert outcomes(selection)[name].endswith("no NVIDIA GPU is visible")
        assert [attempt.name for attempt in selection.attempts if attempt.is_available] == [
            "onnxruntime-cpu", "openvino",
        ]  # fmt: skip

    def test_warns_where_a_gpu_is_left_idle(self, machine: Machine) -> None:
        host = machine.host(SERVER, find_toolkit=importing("No module named 'tensorrt'"))
        with capture_logs() as logs:
            selection = select_backend("auto", host=replace(host, is_installed=lambda _name: False))
        assert selection.is_fallback
        warnings = [line for line in logs if line["log_level"] == "warning"]
        assert [line.get("backend") for line in warnings] == ["tensorrt", "onnxruntime-cuda", None]
        assert "every model runs on the CPU" in warnings[-1]["event"]
        assert all(line["cure"] for line in warnings[:-1])

    def test_asks_nothing_of_the_gpu_where_a_provider_is_named(self, machine: Machine) -> None:
        host = machine.host(SERVER, find_toolkit=raising(AssertionError()))
        selection = select_backend("auto", providers=("cpu",), host=host)
        assert selection.attempts == ()
        assert not selection.is_fallback

    @pytest.mark.parametrize("providers", [("auto",), ()])
    def test_is_the_same_as_naming_no_provider(self, machine: Machine, providers: tuple[str, ...]) -> None:
        assert select_backend("auto", providers=providers, host=machine.host(SERVER)).engines is not None


class TestByName:
    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_another_backend_has_no_engines(self, machine: Machine, backend: BackendName) -> None:
        host = machine.host(SERVER, find_toolkit=raising(AssertionError()))
        assert select_backend(backend, host=host).engines is None

    def test_tensorrt_builds_engines_and_lets_onnx_runtime_answer_meanwhile(self, machine: Machine) -> None:
        selection = select_backend("tensorrt", host=machine.host(ORIN))
        assert selection.engines is not None
        assert selection.engines.facts()["module"] == "NVIDIA Jetson AGX Orin Developer Kit"
        assert [opener.name for opener in selection.candidates(keeps_bf16=True)] == ["onnxruntime-cpu"]

    @pytest.mark.parametrize(
        ("files", "changes", "told"),
        [
            pytest.param(
                ORIN, {"find_toolkit": importing(NVDLA)}, ["libnvdla_compiler", "nvidia-l4t-dla-compiler"],
                id="no-dla-compiler",
            ),
            pytest.param(
                SERVER, {"find_toolkit": importing("No module named 'tensorrt'")}, ["not installed", "tensorrt-cu12"],
                id="not-installed",
            ),
            pytest.param(
                SERVER, {"open_cuda": raising(CudaError(TOO_OLD))}, ["driver", "older", "Update the driver"],
                id="driver-too-old",
            ),
            pytest.param(
                SERVER, {"open_cuda": raising(BackendUnavailableError("No module named 'cuda'"))}, ["cuda-python"],
                id="no-cuda-python",
            ),
            pytest.param(SERVER_WITHOUT_TOOLKIT, {}, ["container", "without it", "--gpus all"], id="container"),
            pytest.param(ORIN_WITHOUT_RUNTIME, {}, ["container", "runtime: nvidia"], id="jetson-container"),
            pytest.param(CARD_WITHOUT_DRIVER, {}, ["driver is not loaded", "nvidia-smi"], id="no-driver"),
            pytest.param(PLAIN, {}, ["no NVIDIA GPU is visible"], id="no-gpu"),
        ],
    )  # fmt: skip
    def test_tensorrt_refuses_to_start_in_one_line_that_says_why_and_what_to_do(
        self, machine: Machine, files: Mapping[str, str], changes: Mapping[str, Any], told: list[str]
    ) -> None:
        with pytest.raises(BackendUnavailableError) as caught:
            select_backend("tensorrt", host=machine.host(files, **changes))
        message = caught.value.message
        assert message.startswith("BACKEND=tensorrt cannot be had.")
        assert message.endswith("set BACKEND=auto, which takes what there is.")
        assert "\n" not in message
        for words in told:
            assert words in message

    def test_the_same_causes_are_told_by_auto_which_goes_on(self, machine: Machine) -> None:
        host = machine.host(SERVER, open_cuda=raising(CudaError(TOO_OLD)))
        selection = select_backend("auto", host=host)
        attempt = selection.attempts[0]
        assert (attempt.name, attempt.is_available) == ("tensorrt", False)
        assert "older than the CUDA libraries" in attempt.outcome
        assert selection.engines is None

    def test_a_provider_for_gpus_is_refused_where_it_would_not_start(self, machine: Machine) -> None:
        with pytest.raises(BackendUnavailableError, match=r"asks for cuda"):
            select_backend("onnxruntime", providers=("cuda",), host=machine.host(SERVER))


class TestCuda:
    """ONNX Runtime on the GPU. What its builds offer cannot be had here, so it is an argument."""

    def test_runs_where_a_graph_of_one_node_does(self, machine: Machine) -> None:
        assert cuda_fault(machine.host(SERVER), cuda_is_offered=True) is None

    def test_tells_what_the_provider_misses(self, machine: Machine) -> None:
        fault = cuda_fault(machine.host(SERVER, provider_fault=lambda _name: MISSES_CUDNN), cuda_is_offered=True)
        assert fault is not None
        assert "libraries is not found" in fault.why
        assert "cuDNN" in fault.cure

    def test_tells_for_which_gpus_the_wheel_has_kernels(self, machine: Machine) -> None:
        """CUDA says which GPU this is; where it cannot be asked, the files of a Jetson do."""
        host = machine.host(
            ORIN, provider_fault=lambda _name: MISSES_CUDNN, read_kernels=lambda: Kernels(frozenset({89, 90, 120}))
        )
        fault = cuda_fault(host, cuda_is_offered=True)
        assert fault is not None
        assert fault.why == "this wheel has kernels for 89/90/120, this GPU is 8.7"
        assert "linux_aarch64.whl" in fault.cure
        assert cuda_fault(replace(host, open_cuda=raising(CudaError(TOO_OLD))), cuda_is_offered=True) == fault

    def test_tells_that_there_are_no_kernels_where_the_library_has_no_list(self, machine: Machine) -> None:
        host = machine.host(
            SERVER,
            provider_fault=lambda _name: "CUDA failure 209: no kernel image is available",
            open_cuda=raising(CudaError(TOO_OLD)),
        )
        fault = cuda_fault(host, cuda_is_offered=True)
        assert fault is not None
        assert fault.what == "ONNX Runtime does not run on the GPU"
        assert "no kernels for its generation" in fault.why
        assert "onnxruntime-gpu" in fault.cure

    @pytest.mark.parametrize(
        ("installed", "told"),
        [
            (set(), "is for CPUs only"),
            ({"onnxruntime"}, "is for CPUs only"),
            ({"onnxruntime", "onnxruntime-gpu"}, "in one folder"),
            ({"onnxruntime-gpu"}, "offers no CUDA"),
        ],
    )
    def test_tells_which_build_is_installed_where_it_offers_no_cuda(
        self, machine: Machine, installed: set[str], told: str
    ) -> None:
        fault = cuda_fault(machine.host(SERVER, is_installed=installed.__contains__), cuda_is_offered=False)
        assert fault is not None
        assert told in fault.why
        assert "pip install" in fault.cure

    def test_what_files_tell_comes_before_what_the_provider_says(self, machine: Machine) -> None:
        host = machine.host(SERVER_WITHOUT_TOOLKIT, provider_fault=lambda _name: "CUDA failure 100")
        assert cuda_fault(host, cuda_is_offered=True) == gpu_fault(find_gpu(host.root))

    def test_runs_where_it_starts_though_no_file_tells_of_a_gpu(self, machine: Machine) -> None:
        assert cuda_fault(machine.host(PLAIN), cuda_is_offered=True) is None

    def test_installed_distributions_are_asked_for_by_name(self) -> None:
        assert Host().is_installed("onnxruntime")
        assert not Host().is_installed("no-such-distribution")


class TestJetsonWithCoresSwitchedOff:
    """ONNX Runtime before 1.27 writes out of bounds there; the version here is newer, so it is set."""

    @pytest.fixture(autouse=True)
    def _old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jetface.runtimes.choose.runtime_version", lambda: (1, 23, 0))

    def test_onnx_runtime_is_not_imported_where_engines_can_do_without(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jetface.runtimes.choose.available_providers", raising(AssertionError()))
        selection = select_backend("auto", host=machine.host(ORIN_30W, machine="aarch64"))
        assert selection.onnx is None
        assert selection.candidates(keeps_bf16=True) == ()
        assert selection.engines is not None
        attempt = selection.attempts[-1]
        assert "writes out of bounds" in attempt.outcome
        assert "nvpmodel -m 0" in attempt.cure

    def test_it_is_used_with_a_warning_where_there_is_nothing_else(self, machine: Machine) -> None:
        with capture_logs() as logs:
            selection = select_backend("onnxruntime", host=machine.host(ORIN_30W, machine="aarch64"))
        assert selection.onnx is not None
        assert any("may crash" in line["event"] and "nvpmodel" in line["cure"] for line in logs)

    @pytest.mark.parametrize(("files", "architecture"), [(ORIN, "aarch64"), (ORIN_30W, "x86_64")])
    def test_all_cores_or_another_processor_are_no_reason(
        self, machine: Machine, files: Mapping[str, str], architecture: str
    ) -> None:
        assert machine.host(files, machine=architecture).cores_fault() is None

    def test_nor_is_a_newer_version(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jetface.runtimes.choose.runtime_version", lambda: (1, 27, 0))
        assert machine.host(ORIN_30W, machine="aarch64").cores_fault() is None


def test_engines_do_without_an_onnx_runtime_that_cannot_be_imported(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault("ONNX Runtime cannot be imported", "it was built for NumPy 1", "Install numpy<2.")
    monkeypatch.setattr("jetface.runtimes.choose.available_providers", raising(unavailable(fault)))
    selection = select_backend("tensorrt", host=machine.host(SERVER))
    assert (selection.onnx, selection.name) == (None, "tensorrt_rtx")
    assert selection.attempts[-1] == Attempt.failed("onnxruntime", fault)
    with pytest.raises(BackendUnavailableError):
        select_backend("auto", host=machine.host(SERVER, open_cuda=raising(CudaError(TOO_OLD))))
