"""Which backend runs the models: decided once at start, from what is asked for and what is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from app.backends.onnx import open_onnx_backends
from app.backends.protocol import Backend
from app.backends.providers import CPU, available_providers, choose_providers, short_name
from app.errors import BackendUnavailableError


class Opener(Protocol):
    """A way to run models: opens backends for prepared graphs."""

    @property
    def name(self) -> str:
        """What an operator sees: `onnxruntime-cpu`, `onnxruntime-cuda`, ..."""
        ...

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the device graphs are prepared for."""
        ...

    @property
    def is_on_cpu(self) -> bool:
        """Whether runs take the cores that everything else needs too."""
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
        )


def select_backend(backend: Literal["auto", "onnxruntime", "tensorrt"], *, providers: Sequence[str] = ()) -> Opener:
    """Decide how models are run. A backend or provider that is named is required; `auto` takes the best at hand.

    Args:
        backend: The setting `BACKEND`.
        providers: The setting `ORT_PROVIDERS`; empty for the best at hand.

    Raises:
        BackendUnavailableError: What was named cannot be had; says why and what to do.
    """
    if backend == "tensorrt":
        raise BackendUnavailableError(
            "BACKEND=tensorrt cannot be had: this release has no TensorRT runner. Set BACKEND=auto, or "
            "BACKEND=onnxruntime with ORT_PROVIDERS=cuda for a GPU."
        )
    return OnnxOpener(choose_providers(providers, available_providers()))
