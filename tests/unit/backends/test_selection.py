"""Which backend and which providers are chosen, and what is said."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import pytest
from structlog.testing import capture_logs

from app.backends.providers import (
    available_providers,
    choose_providers,
    provider_options,
    runtime_version,
)
from app.backends.selection import OnnxOpener, select_backend
from app.errors import BackendUnavailableError
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
    monkeypatch.setattr("app.backends.providers.has_gpu_build", lambda: True)
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
    options = provider_options(CUDA, gpu_memory_limit_bytes=2**30)
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["gpu_mem_limit"] == str(2**30)
    assert "gpu_mem_limit" not in provider_options(CUDA)
    assert provider_options(CPU) == {}


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_the_selected_backend_opens_models(backend: str) -> None:
    opener = select_backend(backend, providers=("cpu",))  # type: ignore[arg-type]  # parametrised by name
    assert (opener.name, opener.provider, opener.is_on_cpu) == ("onnxruntime-cpu", CPU, True)
    lanes = opener.open(arcface_model(), num_lanes=2, max_batch_size=1)
    assert len(lanes) == 2
    assert lanes[0].run(np.zeros((1, 3, 112, 112), np.float32))[0].shape == (1, 4)


def test_an_opener_is_named_after_its_device() -> None:
    opener = OnnxOpener((CUDA, CPU))
    assert (opener.name, opener.is_on_cpu) == ("onnxruntime-cuda", False)


def test_tensorrt_refuses_to_start_and_says_what_else_there_is() -> None:
    with pytest.raises(BackendUnavailableError, match="no TensorRT runner"):
        select_backend("tensorrt")
