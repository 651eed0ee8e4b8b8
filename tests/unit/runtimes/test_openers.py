"""How ONNX Runtime is opened on a GPU, as far as no GPU is needed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from structlog.testing import capture_logs

from jetface.errors import BackendUnavailableError
from jetface.runtimes.choose import OnnxOpener, with_cuda_buffers
from jetface.runtimes.cuda import Cuda, CudaError
from jetface.runtimes.onnx_cuda import CudaSetup, OnnxCudaBackend
from tests.support.fake_cuda import FakeCuda
from tests.support.tiny_onnx import EMBEDDING_LENGTH, arcface_model

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def raising(error: Exception) -> Callable[[], Cuda]:
    def fail() -> Cuda:
        raise error

    return fail


def test_the_cuda_provider_is_given_buffers_and_the_memory_limit() -> None:
    opener = with_cuda_buffers(OnnxOpener((CUDA, CPU)), FakeCuda, memory_limit_bytes=1 << 30)
    assert opener.cuda is not None
    assert opener.cuda.memory_limit_bytes == opener.gpu_memory_limit_bytes == 1 << 30
    assert opener.name == "onnxruntime-cuda"


@pytest.mark.parametrize("error", [BackendUnavailableError("no cuda-python"), CudaError("no device")])
def test_without_cuda_from_python_it_runs_plainly_and_says_so(error: Exception) -> None:
    with capture_logs() as logs:
        opener = with_cuda_buffers(OnnxOpener((CUDA, CPU)), raising(error), memory_limit_bytes=7)
    assert (opener.cuda, opener.gpu_memory_limit_bytes) == (None, 7)
    assert [(entry["log_level"], entry["reason"]) for entry in logs] == [("warning", str(error))]


def test_other_providers_are_left_as_they_are() -> None:
    opener = OnnxOpener((CPU,))
    assert with_cuda_buffers(opener, raising(CudaError("never asked")), memory_limit_bytes=1) is opener


def test_a_lane_each_has_buffers_of_its_own() -> None:
    cuda = FakeCuda(is_eager=True)
    opener = OnnxOpener((CUDA, CPU), cuda=CudaSetup(cuda=cuda, device="cpu"))
    backends = opener.open(arcface_model(), num_lanes=2, max_batch_size=1)
    assert all(isinstance(backend, OnnxCudaBackend) for backend in backends)
    face = np.ones((1, 3, 112, 112), np.float32)
    first, second = (backend.run(face)[0] for backend in backends)
    assert first.shape == (1, EMBEDDING_LENGTH)
    np.testing.assert_array_equal(first, second)
    for backend in backends:
        backend.close()
    assert not cuda.held
