"""Building engines with TensorRT: phases, timing cache, one path for every version."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import structlog

from jetface.atomic import whole_file
from jetface.device.faults import recognize
from jetface.device.limits import free_memory_bytes
from jetface.device.machine import Jetson
from jetface.errors import EngineBuildError, EngineLoadError
from jetface.runtimes.backend import Backend
from jetface.runtimes.cuda import CudaRuntime
from jetface.runtimes.engine_kit import BuildProgress, BuiltEngine, EngineRequest
from jetface.runtimes.tensorrt import Messages, Toolkit, misfit, open_engine, static_shape

_LONG_PART = {
    "Building engine": "Building engine from subgraph",
    "Building engine from subgraph": "Computing profile costs",
}
"""Phases that consist of one long phase and short ones around it. Others are taken to be what they say they are."""

_LONG_SHARE = 0.9
"""What the long phase is worth of the phase it is part of: minutes of seconds more, on a device."""


@dataclass(slots=True, eq=False)
class _Phase:
    name: str
    num_steps: int
    is_long: bool
    """Whether it is the long part of the phase around it."""
    steps_done: int = 0
    long_done: int = 0
    """Long parts of it that are over."""

    def value(self, inner: _Phase | None, inner_value: float) -> float:
        """How much of it is done, 0 to 1, when `inner` within it is done by `inner_value`."""
        in_step = inner_value if inner and not inner.is_long else 0.0
        stepped = min(1.0, (self.steps_done + in_step) / self.num_steps)
        if self.name not in _LONG_PART:
            return stepped
        # The root has one long part; a subgraph's phase one with each step.
        parts = 1 if self.name == "Building engine" else self.num_steps
        in_part = inner_value if inner and inner.is_long else 0.0
        return (1 - _LONG_SHARE) * stepped + _LONG_SHARE * min(1.0, (self.long_done + in_part) / parts)


class ProgressTree:
    """Adds up phases, steps and phases within steps to one fraction that never goes back.

    A phase is worth one step of the phase it is part of, unless it is known to be its long part. Phases that are part
    of none follow each other: the first is worth nine tenths of a build, the next as much of the rest, and so on.
    """

    def __init__(self) -> None:
        self._open: list[_Phase] = []
        """Outermost first."""
        self._rest = 1.0
        """Share of the build that no outermost phase has had."""
        self._fraction = 0.0

    @property
    def fraction(self) -> float:
        """0 to 1; never less than it was."""
        return self._fraction

    @property
    def phase(self) -> str:
        """The innermost phase; empty between phases."""
        return self._open[-1].name if self._open else ""

    def start(self, name: str, parent: str | None, num_steps: int) -> None:
        """Note that a phase has begun.

        Args:
            name: Of the phase.
            parent: Name of the phase it is part of; None: of none.
            num_steps: Steps it will take; less than 1 counts as 1.
        """
        is_long = parent is not None and _LONG_PART.get(parent) == name
        self._open.append(_Phase(name, max(1, num_steps), is_long))
        self._update()

    def step(self, name: str, step: int) -> None:
        """Note that step number `step` of a phase is done, counted from 0."""
        if phase := self._find(name):
            phase.steps_done = min(phase.num_steps, max(phase.steps_done, step + 1))
            self._update()

    def finish(self, name: str) -> None:
        """Note that a phase is over, and with it what is still open within it."""
        phase = self._find(name)
        if phase is None:
            return
        at = self._open.index(phase)
        del self._open[at:]
        if at == 0:
            self._rest *= 1 - _LONG_SHARE
        elif phase.is_long:
            self._open[at - 1].long_done += 1
        self._update()

    def _find(self, name: str) -> _Phase | None:
        return next((phase for phase in reversed(self._open) if phase.name == name), None)

    def _update(self) -> None:
        inner, value = None, 0.0
        for phase in reversed(self._open):
            inner, value = phase, phase.value(inner, value)
        self._fraction = max(self._fraction, min(1.0, 1 - self._rest + self._rest * _LONG_SHARE * value))


class BuildWatch:
    """Reports a build's progress, and ends it when whoever hears of it raises."""

    def __init__(self, on_progress: Callable[[BuildProgress], None]) -> None:
        self._on_progress = on_progress
        self._tree = ProgressTree()
        self._lock = threading.Lock()  # TensorRT may build with several threads
        self._reported = -1.0
        self.error: BaseException | None = None
        """What `on_progress` raised: why the build was ended."""

    def monitor(self, trt: Any) -> Any:
        """Return an `IProgressMonitor` of this TensorRT that tells this watch; keep it as long as the build takes."""
        watch = self

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is found at run time
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)  # pybind11 wants it called by name

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                watch.tell(lambda tree: tree.start(phase_name, parent_phase, num_steps))

            def step_complete(self, phase_name: str, step: int) -> bool:
                return watch.tell(lambda tree: tree.step(phase_name, step))

            def phase_finish(self, phase_name: str) -> None:
                watch.tell(lambda tree: tree.finish(phase_name))

        return Monitor()

    def done(self) -> None:
        """Report that all is done."""
        self._on_progress(BuildProgress(1.0, "plan ready"))

    def tell(self, event: Callable[[ProgressTree], None]) -> bool:
        """Take an event in; return whether the build is to go on. Never raises: the caller is C++.

        A report follows where a hundredth more is done, or another phase has begun since the last one.
        """
        with self._lock:
            if self.error is not None:
                return False
            try:
                event(self._tree)
                if self._tree.fraction >= self._reported + 0.01:
                    self._reported = self._tree.fraction
                    self._on_progress(BuildProgress(self._tree.fraction, self._tree.phase))
            except BaseException as error:  # noqa: BLE001 - raised again where the build was started
                self.error = error
                return False
            return True


_log = structlog.get_logger(__name__)

MOST_BYTES = 256 * 2**20
"""A file longer than this is no timing cache; ours have a few megabytes."""


def attach_timings(config: Any, path: Path) -> None:
    """Give a build the timings in a file. One that is missing, damaged or of another device counts as empty.

    Args:
        config: An `IBuilderConfig`.
        path: The file.
    """
    kept = b""
    try:
        if path.stat().st_size <= MOST_BYTES:
            kept = path.read_bytes()
    except OSError:
        kept = b""
    # TensorRT checks version and device by itself; what it does not take leaves the build without a cache.
    for content in (kept, b""):
        cache = config.create_timing_cache(content)
        ignore_mismatch = False
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch):
            return


def keep_timings(config: Any, path: Path) -> None:
    """Write the timings of a build to a file; one that cannot be written costs time at the next build, no more."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(bytes(cache.serialize()))
    except OSError as error:
        _log.warning("kernel timings are not kept", reason=error.strerror)


_SMALLER_WORKSPACES = (2**30, 2**28, 2**26)
"""What is tried, in bytes, where memory does not suffice."""

_NAMED_LAYERS = 5
"""Layers that a note names; it counts all."""


def build_engine(toolkit: Toolkit, request: EngineRequest, on_progress: Callable[[BuildProgress], None]) -> BuiltEngine:
    """Build an engine, in the calling thread.

    Args:
        toolkit: What to build with.
        request: What to build.
        on_progress: Told how far the build is, in TensorRT's threads, one call at a time. Whatever it raises ends the
            build and is raised here.

    Raises:
        EngineBuildError: It cannot be built; the message says why, and names the node where one is to blame.
    """
    with toolkit.relay.heard(request.model) as messages:
        return _Build(toolkit, request, messages, BuildWatch(on_progress)).run()


def workspaces(limit_bytes: int) -> Iterator[int]:
    """Yield the workspace limits to try one after the other, in bytes; 0: as much as there is."""
    yield limit_bytes
    yield from (size for size in _SMALLER_WORKSPACES if limit_bytes == 0 or size < limit_bytes)


class _Build:
    """One build, from the file to the plan."""

    def __init__(self, toolkit: Toolkit, request: EngineRequest, messages: Messages, watch: BuildWatch) -> None:
        self._toolkit = toolkit
        self._trt = toolkit.trt
        self._request = request
        self._messages = messages
        self._watch = watch
        self._notes: list[str] = []
        self._builder = self._make_builder()
        self._network = self._builder.create_network(toolkit.network_flags())

    def run(self) -> BuiltEngine:
        self._parse()
        self._check_input()
        if self._request.precision == "fp16" and not self._toolkit.has_fast_fp16(self._builder):
            self._notes.append("this GPU computes no faster in half precision")
        for workspace_bytes in workspaces(self._request.workspace_bytes):
            if plan := self._attempt(workspace_bytes):
                self._watch.done()
                return BuiltEngine(plan, tuple(self._notes))
        raise self._error("Building the engine needs more memory than it was given, whatever the workspace")

    def _make_builder(self) -> Any:
        try:
            return self._trt.Builder(self._toolkit.relay.logger)
        # pybind11 says "factory function returned nullptr"; the reason went to the logger.
        except (TypeError, RuntimeError) as cause:
            raise self._error("TensorRT's builder does not start") from cause

    def _parse(self) -> None:
        if not self._request.graph.is_file():
            raise EngineBuildError("The graph's file is missing.")
        parser = self._trt.OnnxParser(self._network, self._toolkit.relay.logger)
        if self._request.dla_core >= 0:
            self._toolkit.adjust_for_accelerator(parser)
        # By its path: weights may lie in files beside it.
        parser.parse_from_file(str(self._request.graph))
        if parser.num_errors:
            error = parser.get_error(0)
            raise EngineBuildError(f"TensorRT does not take {_node_of(error)}: {error.desc()}")
        if not self._network.num_outputs:
            raise EngineBuildError("TensorRT finds no graph in the file.")

    def _check_input(self) -> None:
        if self._network.num_inputs != 1:
            raise EngineBuildError(f"An engine has one input; this graph has {self._network.num_inputs}.")
        shape = tuple(self._network.get_input(0).shape)
        for wanted in self._request.profiles:
            if reason := misfit(wanted, shape):
                raise EngineBuildError(f"The graph cannot be built for {wanted.usual}: {reason}.")

    def _attempt(self, workspace_bytes: int) -> bytes | None:
        """Build once; None where memory did not suffice and a smaller workspace may help."""
        num_errors = len(self._messages.errors)
        config, monitor = self._configure(workspace_bytes)
        plan = self._builder.build_serialized_network(self._network, config)
        if self._watch.error is not None:
            raise self._watch.error
        if plan is not None:
            self._keep_timings(config)
            del monitor
            return bytes(plan)
        fault = recognize("; ".join(self._messages.errors[num_errors:]))
        if fault is None or not fault.is_memory:
            raise self._error("TensorRT cannot build the engine")
        _log.warning("memory did not suffice to build an engine", model=self._request.model, workspace=workspace_bytes)
        self._notes.append(f"memory did not suffice with {_amount(workspace_bytes)} of workspace")
        return None

    def _configure(self, workspace_bytes: int) -> tuple[Any, Any]:
        trt, request = self._trt, self._request
        config = self._builder.create_builder_config()
        config.progress_monitor = monitor = self._watch.monitor(trt)
        config.builder_optimization_level = request.optimization_level
        if workspace_bytes:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
        self._add_profiles(config)
        if request.dla_core >= 0:
            self._use_accelerator(config)
        if request.timing_cache is not None and self._toolkit.keeps_timings:
            attach_timings(config, request.timing_cache)
        return config, monitor

    def _add_profiles(self, config: Any) -> None:
        tensor = self._network.get_input(0)
        if -1 not in tuple(tensor.shape):
            return
        for wanted in self._request.profiles:
            profile = self._builder.create_optimization_profile()
            profile.set_shape(tensor.name, wanted.least, wanted.usual, wanted.most)
            if config.add_optimization_profile(profile) < 0:
                raise self._error(f"TensorRT does not take the profile {wanted.usual}")

    def _use_accelerator(self, config: Any) -> None:
        trt, core = self._trt, self._request.dla_core
        if core >= self._builder.num_DLA_cores:
            raise EngineBuildError(
                f"TRT_DLA_CORE={core} cannot be had: TensorRT finds {self._builder.num_DLA_cores} deep learning "
                "accelerators here. Set it to -1."
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        self._notes += accelerator_notes(self._request, self._network, config)

    def _keep_timings(self, config: Any) -> None:
        if self._request.timing_cache is not None and self._toolkit.keeps_timings:
            keep_timings(config, self._request.timing_cache)

    def _error(self, what: str) -> EngineBuildError:
        text = self._messages.text
        fault = recognize(text)
        reason = f"{fault.why}. {fault.cure}" if fault else text or "TensorRT gave no reason"
        return EngineBuildError(f"{what}: {reason}")


def accelerator_notes(request: EngineRequest, network: Any, config: Any) -> list[str]:
    """Tell what stays on the GPU although a deep learning accelerator was asked for.

    Args:
        request: What is built.
        network: An `INetworkDefinition`.
        config: The `IBuilderConfig`, the accelerator set as its default device.
    """
    notes = []
    if not all(map(static_shape, request.profiles)):
        notes.append("the accelerator takes one shape alone: with a batch size above 1 all of it runs on the GPU")
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    names = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if names:
        dots = ", ..." if len(names) > _NAMED_LAYERS else ""
        notes.append(f"{len(names)} of {len(layers)} layers stay on the GPU: {', '.join(names[:_NAMED_LAYERS])}{dots}")
    return notes


def _node_of(error: Any) -> str:
    """Name the node a `ParserError` is about."""
    if error.node() < 0:
        return "the graph"
    # A node may have no name.
    return f"node {error.node_name() or '#' + str(error.node())} ({error.node_operator()})"


def _amount(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.0f} MiB" if num_bytes else "all of the device's memory"


_LEAST_WORKSPACE_BYTES = 2**26
"""Given, as a limit, however little is free: below it some operators of ours have no kernel at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorrtKit:
    """Builds and opens engines with the TensorRT that was found."""

    toolkit: Toolkit
    device: Mapping[str, str] = field(default_factory=dict)
    """What plans are tied to besides the toolkit: GPU, compute capability, module, driver."""
    cuda: CudaRuntime | None = None
    """CUDA, for engines to run with; None only where nothing is opened."""
    read_free_bytes: Callable[[], float] = free_memory_bytes
    """What this process can still take of the machine's memory; infinite: not known."""

    @property
    def name(self) -> str:
        """`tensorrt`."""
        return self.toolkit.name

    def facts(self) -> Mapping[str, str]:
        """Return the toolkit, its version and the device's facts."""
        return {"toolkit": self.toolkit.name, "version": self.toolkit.version, **self.device}

    def build(self, request: EngineRequest, on_progress: Callable[[BuildProgress], None]) -> BuiltEngine:
        """Build an engine; see `build_engine`. What `on_progress` raises ends the build and is raised here.

        Where GPU and CPU share their memory, half of what is free is the most that a workspace is without a limit of
        its own: a build that took all of it would take it from the service. The system says what is free: CUDA does
        not count the page cache, which fills all of a board that has been up for a while and is given up on demand.
        """
        if not request.workspace_bytes and self.cuda is not None:
            properties = self.cuda.properties()
            if properties.is_integrated:
                free_bytes = self.read_free_bytes()
                half_bytes = int(free_bytes if isfinite(free_bytes) else properties.free_bytes) // 2
                request = replace(request, workspace_bytes=max(_LEAST_WORKSPACE_BYTES, half_bytes))
        return build_engine(self.toolkit, request, on_progress)

    @property
    def num_dla_cores(self) -> int:
        """Ask TensorRT how many it can build for: 0 on all but AGX Orin and Orin NX, and in versions without them."""
        try:
            return int(self.toolkit.trt.Runtime(self.toolkit.relay.logger).num_DLA_cores)
        # pybind11's, where there is no device: opening an engine says why.
        except (TypeError, RuntimeError):
            return 0

    def open(self, plan: bytes, *, max_batch_size: int, dla_core: int = -1) -> Backend:
        """Load a plan; see `open_engine`."""
        if self.cuda is None:
            raise EngineLoadError("There is no GPU to load the plan to.")
        return open_engine(
            self.toolkit.trt,
            plan,
            max_batch_size=max_batch_size,
            dla_core=dla_core,
            cuda=self.cuda,
            logger=self.toolkit.relay.logger,
        )


def device_facts(cuda: CudaRuntime, jetson: Jetson | None) -> dict[str, str]:
    """Return what a plan is tied to besides TensorRT.

    Raises:
        CudaError: The device does not answer.
    """
    properties = cuda.properties()
    facts = {
        "gpu": properties.name,
        "compute_capability": ".".join(map(str, properties.compute_capability)),
        "cuda_of_driver": ".".join(map(str, cuda.driver_version())),
    }
    return facts if jetson is None else {**facts, "module": jetson.module}
