"""Which backend runs the models: decided once at start, from what is asked for and what is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import structlog

from app.backends.engines.kit import EngineKit
from app.backends.onnx import open_onnx_backends
from app.backends.openvino import Precision, has_bf16, is_installed, load_runtime, open_openvino_backends
from app.backends.protocol import Backend
from app.backends.providers import CPU, TensorrtOptions, available_providers, choose_providers, short_name
from app.errors import BackendUnavailableError

_log = structlog.get_logger(__name__)

BackendName = Literal["auto", "onnxruntime", "openvino", "tensorrt"]
OpenVinoPrecision = Literal["auto", "f32", "bf16"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The backends that may run models here, all of them on one device. At least one is set."""

    onnx: OnnxOpener | None = None
    openvino: OpenVinoOpener | None = None
    openvino_reduced: OpenVinoOpener | None = None
    """In place of `openvino` for models whose answers bfloat16 leaves within limits."""
    engines: EngineKit | None = None
    """Builds engines that take over from the others once they are proven; None where TensorRT cannot be had."""

    @property
    def is_on_cpu(self) -> bool:
        """Whether runs take the cores that everything else needs too."""
        return self.onnx is None or self.onnx.is_on_cpu

    @property
    def name(self) -> str:
        """What an operator sees of it: one name, or several with `or` between."""
        openers = (self.onnx, self.openvino, self.openvino_reduced)
        return " or ".join(dict.fromkeys(opener.name for opener in openers if opener))

    def candidates(self, *, keeps_bf16: bool) -> tuple[Opener, ...]:
        """Return what may run a model: the first, unless another proves faster.

        Args:
            keeps_bf16: Whether the model's answers stay within limits when it is run in bfloat16.
        """
        return tuple(filter(None, (self.onnx, self.openvino_reduced if keeps_bf16 else self.openvino)))


def select_backend(
    backend: BackendName,
    *,
    providers: Sequence[str] = (),
    openvino_precision: OpenVinoPrecision = "auto",
    tensorrt: TensorrtOptions | None = None,
) -> Selection:
    """Decide how models are run. A backend, provider or precision that is named is required; `auto` takes the best.

    Args:
        backend: The setting `BACKEND`.
        providers: The setting `ORT_PROVIDERS`; empty for the best at hand.
        openvino_precision: The setting `OPENVINO_PRECISION`.
        tensorrt: For ONNX Runtime's TensorRT provider, where `providers` names it.

    Raises:
        BackendUnavailableError: What was named cannot be had; says why and what to do.
    """
    if backend == "tensorrt":
        raise BackendUnavailableError(
            "BACKEND=tensorrt cannot be had: this release has no TensorRT runner. Set BACKEND=auto, or "
            "BACKEND=onnxruntime with ORT_PROVIDERS=cuda or tensorrt,cuda for a GPU."
        )
    if backend == "openvino":
        return _with_openvino(None, load_runtime(), openvino_precision)
    onnx = OnnxOpener(choose_providers(providers, available_providers()), tensorrt)
    # A provider that is named is ONNX Runtime's, and a GPU leaves the CPU to everything else.
    if backend == "auto" and not providers and onnx.is_on_cpu and is_installed():
        try:
            core = load_runtime()
        except BackendUnavailableError as error:
            _log.warning("OpenVINO is left out", reason=error.message)
        else:
            return _with_openvino(onnx, core, openvino_precision)
    return Selection(onnx=onnx)


def _with_openvino(onnx: OnnxOpener | None, core: Any, precision: OpenVinoPrecision) -> Selection:
    if precision == "bf16" and not has_bf16(core):
        raise BackendUnavailableError(
            "OPENVINO_PRECISION=bf16 cannot be had: this CPU has neither AVX512_BF16 nor AMX. Set it to auto or f32."
        )
    reduced: Precision = "bf16" if precision != "f32" and has_bf16(core) else "f32"
    return Selection(
        onnx=onnx,
        openvino=OpenVinoOpener(core, "bf16" if precision == "bf16" else "f32"),
        openvino_reduced=OpenVinoOpener(core, reduced),
    )
