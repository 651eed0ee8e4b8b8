"""Ways to run models, ready to open graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from app.backends.onnx import open_onnx_backends
from app.backends.openvino import Precision, open_openvino_backends
from app.backends.protocol import Backend
from app.backends.providers import CPU, TensorrtOptions, short_name


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
        """Open a model; see `open_onnx_backends`."""
        return open_onnx_backends(
            model,
            providers=self.providers,
            num_lanes=num_lanes,
            max_batch_size=max_batch_size,
            num_threads=num_threads,
            tensorrt=self.tensorrt,
        )


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
