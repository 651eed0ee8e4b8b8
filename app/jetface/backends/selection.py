"""Which backend runs the models: decided once at start, from what is asked for and what is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import structlog

from jetface.backends.attempts import AVAILABLE, Attempt, Probes, cuda_fault, fault_of, try_tensorrt
from jetface.backends.engines.kit import EngineKit
from jetface.backends.faults import Fault
from jetface.backends.openers import OnnxOpener, Opener, OpenVinoOpener, with_cuda_buffers
from jetface.backends.openvino import Precision, has_bf16, is_installed, load_runtime
from jetface.backends.providers import (
    CPU,
    CUDA,
    TENSORRT,
    TensorrtOptions,
    available_providers,
    choose_providers,
)
from jetface.device.gpu import find_gpu
from jetface.errors import BackendUnavailableError

_log = structlog.get_logger(__name__)

BackendName = Literal["auto", "onnxruntime", "openvino", "tensorrt"]
OpenVinoPrecision = Literal["auto", "f32", "bf16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The backends that may run models here, and how they were found. At least one is set."""

    onnx: OnnxOpener | None = None
    openvino: OpenVinoOpener | None = None
    openvino_reduced: OpenVinoOpener | None = None
    """In place of `openvino` for models whose answers bfloat16 leaves within limits."""
    engines: EngineKit | None = None
    """Builds engines that take over from the others once they are proven; None where TensorRT cannot be had."""
    attempts: tuple[Attempt, ...] = ()
    """What was tried at start, in order; nothing where a provider was named."""
    is_fallback: bool = False
    """Whether the machine has a GPU that nothing here can use, without the CPU having been asked for."""

    @property
    def is_on_cpu(self) -> bool:
        """Whether runs take the cores that everything else needs too, for good."""
        return self.engines is None and (self.onnx is None or self.onnx.is_on_cpu)

    @property
    def name(self) -> str:
        """What an operator sees of it: one name, or several with `or` between."""
        ways = (self.engines, self.onnx, self.openvino, self.openvino_reduced)
        return " or ".join(dict.fromkeys(way.name for way in ways if way))

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
    gpu_memory_limit_bytes: int = 0,
    probes: Probes | None = None,
) -> Selection:
    """Decide how models are run, and log what was tried, what failed and what mends it.

    A backend, provider or precision that is named is required; `auto` takes the best: TensorRT, whose engines take
    over from ONNX Runtime once they are built; ONNX Runtime on the GPU; ONNX Runtime or OpenVINO on the CPU.

    Args:
        backend: The setting `BACKEND`.
        providers: The setting `ORT_PROVIDERS`; empty for the best at hand.
        openvino_precision: The setting `OPENVINO_PRECISION`.
        tensorrt: For ONNX Runtime's TensorRT provider, where `providers` names it.
        gpu_memory_limit_bytes: The setting `GPU_MEMORY_LIMIT_BYTES`, for models on ONNX Runtime's CUDA provider.
        probes: What is asked of this machine; None: of this one.

    Raises:
        BackendUnavailableError: What was named cannot be had; says why and what to do.
    """
    probes = probes or Probes()
    if backend == "openvino":
        return _with_openvino(Selection(), load_runtime(), openvino_precision)
    named = [name for name in providers if name.lower() != "auto"]
    selection = Selection()
    # A provider that is named is ONNX Runtime's.
    if backend == "tensorrt" or (backend == "auto" and not named):
        selection = _with_tensorrt(selection, probes, is_required=backend == "tensorrt")
    selection = _with_onnx_if_it_can_be_had(selection, named, tensorrt, probes)
    if selection.onnx is not None:
        onnx = with_cuda_buffers(selection.onnx, probes.open_cuda, memory_limit_bytes=gpu_memory_limit_bytes)
        selection = replace(selection, onnx=onnx)
    # A GPU leaves the CPU to everything else.
    if backend == "auto" and not named and selection.is_on_cpu and is_installed():
        try:
            core = load_runtime()
        except BackendUnavailableError as error:
            _log.warning("OpenVINO is left out", reason=error.message)
            return replace(selection, attempts=(*selection.attempts, Attempt("openvino", error.message)))
        return _with_openvino(selection, core, openvino_precision)
    return selection


def _with_tensorrt(selection: Selection, probes: Probes, *, is_required: bool) -> Selection:
    found = try_tensorrt(probes, is_required=is_required)
    if not isinstance(found, Fault):
        _log.info("TensorRT is available", **found.facts())
        return _tried(replace(selection, engines=found), Attempt("tensorrt", AVAILABLE))
    if is_required:
        raise BackendUnavailableError(
            f"BACKEND=tensorrt cannot be had. {found.sentence} Or set BACKEND=auto, which takes what there is."
        )
    return _tried(selection, Attempt.failed("tensorrt", found), is_quiet=find_gpu(probes.root) is None)


def _with_onnx_if_it_can_be_had(
    selection: Selection, named: Sequence[str], tensorrt: TensorrtOptions | None, probes: Probes
) -> Selection:
    """Add ONNX Runtime; engines can do without it, though nothing answers then until they are built."""
    fault = probes.cores_fault()
    if selection.engines is None:
        if fault:
            _log.warning(fault.what, reason=fault.why, cure=fault.cure)
        return _with_onnx(selection, named, tensorrt, probes)
    if fault is None:
        try:
            return _with_onnx(selection, named, tensorrt, probes)
        except BackendUnavailableError as error:
            fault = fault_of(error, "ONNX Runtime cannot be had")
    return _tried(selection, Attempt.failed("onnxruntime", fault))


def _with_onnx(
    selection: Selection, named: Sequence[str], tensorrt: TensorrtOptions | None, probes: Probes
) -> Selection:
    available = available_providers()
    chosen = choose_providers(named, available)
    if named and chosen[0] == CPU:
        return replace(selection, onnx=OnnxOpener(chosen, tensorrt))
    fault = cuda_fault(probes, cuda_is_offered=CUDA in available)
    if named:
        # Other devices than NVIDIA's say themselves, when a model is opened, that they do not start.
        if fault and chosen[0] in (CUDA, TENSORRT):
            raise BackendUnavailableError(f"ORT_PROVIDERS={','.join(named)} cannot be had. {fault.sentence}")
        return replace(selection, onnx=OnnxOpener(chosen, tensorrt))
    if fault is None:
        return _tried(replace(selection, onnx=OnnxOpener(chosen, tensorrt)), Attempt("onnxruntime-cuda", AVAILABLE))
    has_gpu = find_gpu(probes.root) is not None
    selection = _tried(selection, Attempt.failed("onnxruntime-cuda", fault), is_quiet=not has_gpu)
    cpu = OnnxOpener(tuple(name for name in chosen if name != CUDA), tensorrt)
    selection = _tried(replace(selection, onnx=cpu), Attempt("onnxruntime-cpu", AVAILABLE))
    if has_gpu and selection.is_on_cpu:
        _log.warning("this machine has an NVIDIA GPU, but every model runs on the CPU: the lines above say why")
        return replace(selection, is_fallback=True)
    return selection


def _tried(selection: Selection, attempt: Attempt, *, is_quiet: bool = False) -> Selection:
    """Note an attempt, and say it aloud; `is_quiet`: it has been said, or is what one expects here."""
    if not attempt.is_available:
        log = _log.info if is_quiet else _log.warning
        log("backend cannot be had", backend=attempt.name, outcome=attempt.outcome, cure=attempt.cure)
    return replace(selection, attempts=(*selection.attempts, attempt))


def _with_openvino(selection: Selection, core: Any, precision: OpenVinoPrecision) -> Selection:
    if precision == "bf16" and not has_bf16(core):
        raise BackendUnavailableError(
            "OPENVINO_PRECISION=bf16 cannot be had: this CPU has neither AVX512_BF16 nor AMX. Set it to auto or f32."
        )
    reduced: Precision = "bf16" if precision != "f32" and has_bf16(core) else "f32"
    return replace(
        selection,
        attempts=(*selection.attempts, Attempt("openvino", AVAILABLE)),
        openvino=OpenVinoOpener(core, "bf16" if precision == "bf16" else "f32"),
        openvino_reduced=OpenVinoOpener(core, reduced),
    )
