"""Which backend and which providers are chosen, and what is said."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from structlog.testing import capture_logs

from jetface.errors import BackendUnavailableError
from jetface.runtimes.choose import BackendName, OnnxOpener, Selection, select_backend
from jetface.runtimes.openvino import has_bf16, load_runtime
from jetface.runtimes.providers import (
    TENSORRT,
    CudaOptions,
    TensorrtOptions,
    available_providers,
    choose_providers,
    provider_options,
    runtime_version,
)
from tests.support.tiny_onnx import arcface_model

CPU, CUDA, TRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


def test_auto_takes_the_best_at_hand_and_says_so() -> None:
    with capture_logs() as logs:
        assert choose_providers((), (TRT, CUDA, CPU)) == (CUDA, CPU)
        assert choose_providers(("auto",), ("AzureExecutionProvider", CPU)) == (CPU,)
    assert [line["chosen"] for line in logs] == [(CUDA, CPU), (CPU,)]


@pytest.mark.parametrize("name", ["cuda", "CUDA", "CUDAExecutionProvider"])
def test_a_provider_is_understood_by_its_short_name(name: str) -> None:
    assert choose_providers((name,), (TRT, CUDA, CPU)) == (CUDA, CPU)
    assert choose_providers(("tensorrt", name, "cpu"), (TRT, CUDA, CPU)) == (TRT, CUDA, CPU)


def test_a_provider_that_is_named_is_required() -> None:
    with pytest.raises(BackendUnavailableError, match=r"asks for cuda, .* only CPUExecutionProvider.*onnxruntime-gpu"):
        choose_providers(("cuda", "cpu"), (CPU,))


def test_a_gpu_build_without_cuda_is_said_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetface.runtimes.providers.has_gpu_build", lambda: True)
    with capture_logs() as logs:
        assert choose_providers((), (CPU,)) == (CPU,)
    assert logs[-1]["log_level"] == "warning"


def test_this_runtime_is_known() -> None:
    assert CPU in available_providers()
    assert ".".join(map(str, runtime_version())) == onnxruntime.__version__.split("+")[0]


def test_a_runtime_that_is_not_installed_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailableError, match="install `onnxruntime`"):
        available_providers()


def test_cuda_sessions_search_quickly_and_grow_by_what_they_need() -> None:
    options = provider_options(CUDA, cuda=CudaOptions(memory_limit_bytes=2**30))
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["gpu_mem_limit"] == str(2**30)
    assert "gpu_mem_limit" not in provider_options(CUDA)
    assert provider_options(CPU) == {}


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_a_provider_that_is_named_is_the_only_candidate(backend: BackendName) -> None:
    selection = select_backend(backend, providers=("cpu",))
    assert (selection.name, selection.is_on_cpu) == ("onnxruntime-cpu", True)
    (opener,) = selection.candidates(keeps_bf16=True)
    assert (opener.name, opener.provider, opener.is_on_cpu) == ("onnxruntime-cpu", CPU, True)
    lanes = opener.open(arcface_model(), num_lanes=2, max_batch_size=1)
    assert len(lanes) == 2
    assert lanes[0].run(np.zeros((1, 3, 112, 112), np.float32))[0].shape == (1, 4)


def test_an_opener_is_named_after_its_device() -> None:
    opener = OnnxOpener((CUDA, CPU))
    assert (opener.name, opener.is_on_cpu) == ("onnxruntime-cuda", False)
    assert not Selection(onnx=opener).is_on_cpu


def test_auto_lets_openvino_compete_where_it_is_installed() -> None:
    """ONNX Runtime comes first; the precision depends on the model and on the CPU."""
    selection = select_backend("auto")
    reduced = "openvino-bf16" if has_bf16(load_runtime()) else "openvino-f32"
    names = {keeps: [opener.name for opener in selection.candidates(keeps_bf16=keeps)] for keeps in (False, True)}
    assert names == {False: ["onnxruntime-cpu", "openvino-f32"], True: ["onnxruntime-cpu", reduced]}
    assert selection.name == " or ".join(dict.fromkeys(["onnxruntime-cpu", "openvino-f32", reduced]))


def test_openvino_by_name_is_the_only_candidate() -> None:
    selection = select_backend("openvino", openvino_precision="f32")
    assert selection.is_on_cpu
    assert selection.name == "openvino-f32"
    for keeps_bf16 in (False, True):
        (opener,) = selection.candidates(keeps_bf16=keeps_bf16)
        assert (opener.name, opener.provider, opener.is_on_cpu) == ("openvino-f32", "OpenVINO", True)
        (lane,) = opener.open(arcface_model(), num_lanes=1, max_batch_size=1)
        assert lane.run(np.zeros((1, 3, 112, 112), np.float32))[0].shape == (1, 4)


def test_bf16_by_name_is_for_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetface.runtimes.choose.has_bf16", lambda _core: True)
    selection = select_backend("openvino", openvino_precision="bf16")
    assert {selection.candidates(keeps_bf16=keeps)[0].name for keeps in (False, True)} == {"openvino-bf16"}


def test_a_cpu_without_bf16_refuses_it_by_name_and_does_without_it_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetface.runtimes.choose.has_bf16", lambda _core: False)
    with pytest.raises(BackendUnavailableError, match=r"OPENVINO_PRECISION=bf16 .* neither AVX512_BF16 nor AMX"):
        select_backend("openvino", openvino_precision="bf16")
    assert select_backend("openvino").name == "openvino-f32"


def test_openvino_that_is_not_installed_refuses_by_name_and_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetface.runtimes.choose.is_installed", lambda: False)
    assert select_backend("auto").name == "onnxruntime-cpu"
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install jetface\[openvino\]"):
        select_backend("openvino")


def test_openvino_that_does_not_start_is_left_out_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("jetface.runtimes.choose.is_installed", lambda: True)
    with capture_logs() as logs:
        assert select_backend("auto").name == "onnxruntime-cpu"
    assert (logs[-1]["log_level"], logs[-1]["event"]) == ("warning", "OpenVINO is left out")


def test_the_tensorrt_provider_is_told_precision_cache_and_accelerator(tmp_path: Path) -> None:
    options = provider_options(TENSORRT, tensorrt=TensorrtOptions(fp16=False, cache_dir=tmp_path, dla_core=1))
    assert options["trt_fp16_enable"] == "0"
    assert options["trt_engine_cache_enable"] == "1"
    assert Path(options["trt_engine_cache_path"]).parent == tmp_path
    assert (options["trt_dla_enable"], options["trt_dla_core"]) == ("1", "1")


def test_the_tensorrt_provider_without_cache_or_accelerator() -> None:
    assert provider_options(TENSORRT) == {"trt_fp16_enable": "1"}
