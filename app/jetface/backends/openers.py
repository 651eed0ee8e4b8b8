"""Ways to run models, ready to open graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import structlog

from jetface.backends.cuda.runtime import CudaError, CudaRuntime
from jetface.backends.cuda_setup import CudaSetup
from jetface.backends.onnx import open_onnx_backends
from jetface.backends.onnx_cuda import open_cuda_backend
from jetface.backends.openvino import Precision, open_openvino_backends
from jetface.backends.protocol import Backend
from jetface.backends.providers import CPU, CUDA, CudaOptions, TensorrtOptions, short_name
from jetface.errors import BackendUnavailableError

_log = structlog.get_logger(__name__)


class Opener(Protocol):
    """A way to run models: opens backends for prepared graphs."""

    @property
    def name(self) -> str:
        """What an operator sees: `onnxruntime-cpu`, `onnxruntime-cuda`, ..."""
        ...

    @property
    def provider(self) -> str:
        """What graphs are prepared for: an execution provider of ONNX Runtime, or `OpenVINO`."""
        ...

    @property
    def is_on_cpu(self) -> bool:
        """Whether runs take the cores that everything else needs too."""
        ...

    @property
    def wants_pixels(self) -> bool:
        """Whether graphs are prepared to take pixels: so on a GPU, to which they are carried; never on a CPU."""
        ...

    def open(
        self, model: bytes | Path, *, num_lanes: int, max_batch_size: int, num_threads: int = 1
    ) -> Sequence[Backend]:
        """Return one backend a lane, as `open_onnx_backends` does."""
        ...


@dataclass(frozen=True, slots=True)
class OnnxOpener:
    """Opens models on ONNX Runtime."""

    providers: tuple[str, ...]
    """In order of preference, full names, at least one."""
    tensorrt: TensorrtOptions | None = None
    """For the TensorRT provider, where it is one of them."""
    cuda: CudaSetup | None = None
    """For the CUDA provider, where it comes first: buffers of our own and CUDA graphs. None runs it plainly."""
    gpu_memory_limit_bytes: int = 0
    """Most memory of the GPU for a model; 0: no limit."""

    @property
    def name(self) -> str:
        """`onnxruntime-` and the device."""
        return f"onnxruntime-{short_name(self.provider)}"

    @property
    def provider(self) -> str:
        """The provider that runs what it can."""
        return self.providers[0]

    @property
    def is_on_cpu(self) -> bool:
        """Whether the CPU provider is the first."""
        return self.provider == CPU

    @property
    def wants_pixels(self) -> bool:
        """On a GPU."""
        return not self.is_on_cpu

    def open(
        self, model: bytes | Path, *, num_lanes: int, max_batch_size: int, num_threads: int = 1
    ) -> Sequence[Backend]:
        """Open a model; see `open_onnx_backends` and `open_cuda_backend`."""
        if self.cuda is not None and self.provider == CUDA:
            return [open_cuda_backend(model, setup=self.cuda, max_batch_size=max_batch_size) for _ in range(num_lanes)]
        return open_onnx_backends(
            model,
            providers=self.providers,
            num_lanes=num_lanes,
            max_batch_size=max_batch_size,
            num_threads=num_threads,
            tensorrt=self.tensorrt,
            cuda=CudaOptions(memory_limit_bytes=self.gpu_memory_limit_bytes),
        )


def with_cuda_buffers(
    opener: OnnxOpener, open_cuda: Callable[[], CudaRuntime], *, memory_limit_bytes: int
) -> OnnxOpener:
    """Let the CUDA provider work on buffers of our own, where CUDA can be had from Python; say so where it cannot.

    Args:
        opener: Returned as it is where another provider comes first.
        open_cuda: Opens the device.
        memory_limit_bytes: Most memory of the GPU for a model; 0: no limit.
    """
    if opener.provider != CUDA:
        return opener
    try:
        cuda = open_cuda()
    except (BackendUnavailableError, CudaError) as error:
        _log.warning("models run without buffers of their own and without CUDA graphs: slower", reason=str(error))
        return replace(opener, gpu_memory_limit_bytes=memory_limit_bytes)
    setup = CudaSetup(cuda=cuda, memory_limit_bytes=memory_limit_bytes)
    return replace(opener, cuda=setup, gpu_memory_limit_bytes=memory_limit_bytes)


@dataclass(frozen=True, slots=True)
class OpenVinoOpener:
    """Opens models on OpenVINO's own runtime."""

    core: Any
    """From `load_runtime`."""
    precision: Precision

    @property
    def name(self) -> str:
        """`openvino-` and the precision."""
        return f"openvino-{self.precision}"

    @property
    def provider(self) -> str:
        """A name of its own: what is rewritten for ONNX Runtime gains nothing here."""
        return "OpenVINO"

    @property
    def is_on_cpu(self) -> bool:
        """Always: it is opened for the CPU only."""
        return True

    @property
    def wants_pixels(self) -> bool:
        """Never: on a CPU they do not pay."""
        return False

    def open(
        self, model: bytes | Path, *, num_lanes: int, max_batch_size: int, num_threads: int = 1
    ) -> Sequence[Backend]:
        """Open a model; see `open_openvino_backends`."""
        return open_openvino_backends(
            self.core,
            model,
            precision=self.precision,
            num_lanes=num_lanes,
            max_batch_size=max_batch_size,
            num_threads=num_threads,
        )
