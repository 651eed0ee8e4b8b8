"""Which backend runs the models: decided once at start, from what is asked for and what is here."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import structlog

from jetface.device.checks import FIXED_FOR_OFFLINE_CORES, Kernels, kernels_cure, kernels_of_runtime, without_kernels
from jetface.device.faults import CONTAINER_CURE, NO_KERNELS, Fault, explain
from jetface.device.machine import Gpu, compute_capability, find_gpu, find_jetson, l4t_major, offline_cores
from jetface.errors import BackendUnavailableError
from jetface.runtimes.backend import Backend
from jetface.runtimes.cuda import Cuda, CudaError, open_cuda
from jetface.runtimes.engine_kit import EngineKit
from jetface.runtimes.onnx import open_onnx_backends
from jetface.runtimes.onnx_cuda import CudaSetup, open_cuda_backend
from jetface.runtimes.openvino import Precision, has_bf16, is_installed, load_runtime, open_openvino_backends
from jetface.runtimes.providers import (
    CPU,
    CUDA,
    TENSORRT,
    CudaOptions,
    TensorrtOptions,
    available_providers,
    choose_providers,
    provider_fault,
    runtime_version,
    short_name,
)
from jetface.runtimes.tensorrt import Toolkit, find_toolkit
from jetface.runtimes.tensorrt_build import TensorrtKit, device_facts

_log = structlog.get_logger(__name__)

AVAILABLE = "available"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to run models, and what came of trying it."""

    name: str
    """`tensorrt`, `onnxruntime-cuda`, `onnxruntime-cpu`, `openvino`, or `onnxruntime` where it is not even imported."""
    outcome: str
    """`available`, or why it is not: one line."""
    cure: str = ""
    """What mends it: one line; empty where nothing is to be done."""

    @property
    def is_available(self) -> bool:
        """Whether it can run models here."""
        return self.outcome == AVAILABLE

    @classmethod
    def failed(cls, name: str, fault: Fault) -> Attempt:
        """Return the attempt that a fault ended."""
        return cls(name, f"{fault.what}: {fault.why}", fault.cure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What is asked of this machine; others in tests."""

    root: Path = Path("/")
    """Where `/dev`, `/proc`, `/sys` and `/etc` are."""
    find_toolkit: Callable[[], Toolkit] = find_toolkit
    open_cuda: Callable[[], Cuda] = open_cuda
    provider_fault: Callable[[str], str | None] = provider_fault
    is_installed: Callable[[str], bool] = lambda name: any(True for _ in metadata.distributions(name=name))
    """Whether a distribution is."""
    read_kernels: Callable[[], Kernels | None] = kernels_of_runtime
    """For which GPUs ONNX Runtime has kernels."""
    machine: str = field(default_factory=platform.machine)
    """The processor's architecture."""

    def compute_capability(self) -> tuple[int, int] | None:
        """Return that of the GPU, as CUDA says it, else as files do; None where it cannot be had."""
        try:
            return self.open_cuda().properties().compute_capability
        except (BackendUnavailableError, CudaError):
            return compute_capability(self.root)

    def cores_fault(self) -> Fault | None:
        """Return why an ONNX Runtime of this version may write out of bounds here; None: it does not."""
        num_offline = len(offline_cores(self.root))
        if not num_offline or self.machine != "aarch64" or not (0,) < runtime_version() < FIXED_FOR_OFFLINE_CORES:
            return None
        return Fault(
            "ONNX Runtime may crash",
            f"before 1.27 it writes out of bounds where CPU cores are switched off, as {num_offline} are",
            "Switch them on and start again; on a Jetson `sudo nvpmodel -m 0` on the host does.",
        )


def try_tensorrt(host: Host, *, is_required: bool) -> EngineKit | Fault:
    """Return TensorRT, or what keeps it from running here.

    Args:
        host: What is asked of this machine.
        is_required: Whether it is imported even where there is no GPU: what is wrong with it then comes first.
    """
    gpu = find_gpu(host.root)
    fault = gpu_fault(gpu)
    if fault and gpu is None and not is_required:
        return fault
    try:
        toolkit = host.find_toolkit()
    except BackendUnavailableError as error:
        return fault_of(error, "TensorRT cannot be imported")
    if fault:
        return fault
    try:
        cuda = host.open_cuda()
        return TensorrtKit(toolkit=toolkit, device=device_facts(cuda, find_jetson(host.root)), cuda=cuda)
    except (BackendUnavailableError, CudaError) as error:
        return fault_of(error, "CUDA does not start")


def cuda_fault(host: Host, *, cuda_is_offered: bool) -> Fault | None:
    """Return what keeps ONNX Runtime from running on the GPU; None when nothing does.

    Args:
        host: What is asked of this machine.
        cuda_is_offered: Whether ONNX Runtime says that it has the CUDA provider: then it is tried.
    """
    what = "ONNX Runtime does not run on the GPU"
    reason = host.provider_fault(CUDA) if cuda_is_offered else None
    if cuda_is_offered and reason is None:
        return None
    # Files tell causes that messages only hint at.
    if fault := gpu_fault(find_gpu(host.root)):
        return fault
    if reason is not None:
        return _kernels_fault(host, what, reason) or explain(reason, what=what)
    if not host.is_installed("onnxruntime-gpu"):
        return Fault(
            what,
            "the build that is installed is for CPUs only",
            "Install the build for NVIDIA GPUs in its place: `pip uninstall -y onnxruntime`, then `pip install "
            "onnxruntime-gpu`; for JetPack 6 the wheel that `deploy/` installs, with `numpy<2`.",
        )
    if host.is_installed("onnxruntime"):
        return Fault(
            what,
            "onnxruntime and onnxruntime-gpu are installed in one folder, and the one for CPUs came last",
            "`pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install onnxruntime-gpu`.",
        )
    return Fault(
        what,
        "the build for NVIDIA GPUs is installed but offers no CUDA",
        "Install it anew: `pip install --force-reinstall onnxruntime-gpu`.",
    )


def _kernels_fault(host: Host, what: str, reason: str) -> Fault | None:
    """Return that ONNX Runtime has no kernels for this GPU, where its library or its words say so."""
    capability, kernels = host.compute_capability(), host.read_kernels()
    cure = kernels_cure(capability, jetson_l4t=l4t_major(host.root))
    # Where the list speaks against the GPU, whatever else is missing would be installed in vain.
    if capability and kernels and not kernels.run_on(capability):
        return Fault(what, without_kernels(kernels, capability), cure)
    if explain(reason, what=what) == NO_KERNELS:
        return Fault(what, NO_KERNELS.why, cure)
    return None


def gpu_fault(gpu: Gpu | None) -> Fault | None:
    """Return why a GPU cannot be used, as far as files tell; None when nothing speaks against it."""
    what = "CUDA does not start"
    if gpu is None:
        cure = "Where there is one, give it to the container: `runtime: nvidia` on a Jetson, `--gpus all` elsewhere."
        return Fault("TensorRT and CUDA need a GPU", "no NVIDIA GPU is visible", cure)
    if gpu.is_reachable:
        return None
    if gpu.is_integrated or gpu.driver:
        return Fault(what, "there is a GPU, but this container was started without it", CONTAINER_CURE)
    return Fault(
        what,
        "there is a GPU, but its driver is not loaded",
        "Install the NVIDIA driver on the host and restart it; `nvidia-smi` shows when it works.",
    )


def fault_of(error: Exception, what: str) -> Fault:
    """Return what an error tells; `what` could not be had."""
    if isinstance(error, BackendUnavailableError) and "why" in error.details:
        details = error.details
        return Fault(str(details["what"]), str(details["why"]), str(details["cure"]))
    return explain(" ".join(str(part) for part in (error, error.__cause__) if part), what=what)


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
    def version(self) -> str:
        """That of the runtime."""
        ...

    @property
    def is_on_cpu(self) -> bool:
        """Whether runs take the cores that everything else needs too. On a GPU, graphs take pixels."""
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
    def version(self) -> str:
        """ONNX Runtime's."""
        return ".".join(map(str, runtime_version()))

    @property
    def is_on_cpu(self) -> bool:
        """Whether the CPU provider is the first."""
        return self.provider == CPU

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


def with_cuda_buffers(opener: OnnxOpener, open_cuda: Callable[[], Cuda], *, memory_limit_bytes: int) -> OnnxOpener:
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
    provider: ClassVar[str] = "OpenVINO"
    """A name of its own: what is rewritten for ONNX Runtime gains nothing here."""
    is_on_cpu: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """`openvino-` and the precision."""
        return f"openvino-{self.precision}"

    @property
    def version(self) -> str:
        """OpenVINO's."""
        return metadata.version("openvino")

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
    variable: str = "BACKEND",
    providers: Sequence[str] = (),
    openvino_precision: OpenVinoPrecision = "auto",
    tensorrt: TensorrtOptions | None = None,
    gpu_memory_limit_bytes: int = 0,
    host: Host | None = None,
) -> Selection:
    """Decide how models are run, and log what was tried, what failed and what mends it.

    A backend, provider or precision that is named is required; `auto` takes the best: TensorRT, whose engines take
    over from ONNX Runtime once they are built; ONNX Runtime on the GPU; ONNX Runtime or OpenVINO on the CPU.

    Args:
        backend: The setting `BACKEND`.
        variable: What that was set by, for errors.
        providers: The setting `ORT_PROVIDERS`; empty for the best at hand.
        openvino_precision: The setting `OPENVINO_PRECISION`.
        tensorrt: For ONNX Runtime's TensorRT provider, where `providers` names it.
        gpu_memory_limit_bytes: The setting `GPU_MEMORY_LIMIT_BYTES`, for models on ONNX Runtime's CUDA provider.
        host: What is asked of this machine; None: of this one.

    Raises:
        BackendUnavailableError: What was named cannot be had; says why and what to do.
    """
    host = host or Host()
    if backend == "openvino":
        return _with_openvino(Selection(), load_runtime(), openvino_precision)
    named = [name for name in providers if name.lower() != "auto"]
    selection = Selection()
    # A provider that is named is ONNX Runtime's.
    if backend == "tensorrt" or (backend == "auto" and not named):
        selection = _with_tensorrt(selection, host, required_by=variable if backend == "tensorrt" else None)
    selection = _with_onnx_if_it_can_be_had(selection, named, tensorrt, host)
    if selection.onnx is not None:
        onnx = with_cuda_buffers(selection.onnx, host.open_cuda, memory_limit_bytes=gpu_memory_limit_bytes)
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


def _with_tensorrt(selection: Selection, host: Host, *, required_by: str | None) -> Selection:
    found = try_tensorrt(host, is_required=required_by is not None)
    if not isinstance(found, Fault):
        _log.info("TensorRT is available", **found.facts())
        return _tried(replace(selection, engines=found), Attempt("tensorrt", AVAILABLE))
    if required_by is not None:
        raise BackendUnavailableError(
            f"{required_by}=tensorrt cannot be had. {found.sentence} Or set {required_by}=auto, which takes "
            "what there is."
        )
    return _tried(selection, Attempt.failed("tensorrt", found), is_quiet=find_gpu(host.root) is None)


def _with_onnx_if_it_can_be_had(
    selection: Selection, named: Sequence[str], tensorrt: TensorrtOptions | None, host: Host
) -> Selection:
    """Add ONNX Runtime; engines can do without it, though nothing answers then until they are built."""
    fault = host.cores_fault()
    if selection.engines is None:
        if fault:
            _log.warning(fault.what, reason=fault.why, cure=fault.cure)
        return _with_onnx(selection, named, tensorrt, host)
    if fault is None:
        try:
            return _with_onnx(selection, named, tensorrt, host)
        except BackendUnavailableError as error:
            fault = fault_of(error, "ONNX Runtime cannot be had")
    return _tried(selection, Attempt.failed("onnxruntime", fault))


def _with_onnx(selection: Selection, named: Sequence[str], tensorrt: TensorrtOptions | None, host: Host) -> Selection:
    available = available_providers()
    chosen = choose_providers(named, available)
    if named and chosen[0] == CPU:
        return replace(selection, onnx=OnnxOpener(chosen, tensorrt))
    fault = cuda_fault(host, cuda_is_offered=CUDA in available)
    if named:
        # Other devices than NVIDIA's say themselves, when a model is opened, that they do not start.
        if fault and chosen[0] in (CUDA, TENSORRT):
            raise BackendUnavailableError(f"ORT_PROVIDERS={','.join(named)} cannot be had. {fault.sentence}")
        return replace(selection, onnx=OnnxOpener(chosen, tensorrt))
    if fault is None:
        return _tried(replace(selection, onnx=OnnxOpener(chosen, tensorrt)), Attempt("onnxruntime-cuda", AVAILABLE))
    has_gpu = find_gpu(host.root) is not None
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
        log = _log.debug if is_quiet else _log.warning
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
