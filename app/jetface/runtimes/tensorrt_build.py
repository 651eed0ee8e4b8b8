"""Engines built by TensorRT: one path for every version."""

from __future__ import annotations

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
from jetface.runtimes.cuda import Cuda
from jetface.runtimes.engine_kit import Announce, BuiltEngine, EngineRecipe
from jetface.runtimes.tensorrt import Messages, Toolkit, open_engine

_log = structlog.get_logger(__name__)


class _Watch:
    """Announces a build's phases, and ends it when whoever hears of them raises. Called by TensorRT's threads."""

    def __init__(self, announce: Announce) -> None:
        self._announce = announce
        self._phase = ""
        self.error: BaseException | None = None
        """What `announce` raised: why the build was ended."""

    def monitor(self, trt: Any) -> Any:
        """Return an `IProgressMonitor` of this TensorRT that tells this watch; keep it as long as the build takes."""
        watch = self

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is found at run time
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)  # pybind11 wants it called by name

            def phase_start(self, phase_name: str, *_: object) -> None:
                watch.enter(phase_name)

            def step_complete(self, *_: object) -> bool:
                return watch.error is None

            def phase_finish(self, *_: object) -> None:
                """Do nothing: the next phase is announced when it begins."""

        return Monitor()

    def enter(self, phase: str) -> None:
        """Announce a phase, unless it is the last one again. Never raises: the caller is C++."""
        if self.error is None and phase != self._phase:
            self._phase = phase
            try:
                self._announce(phase)
            except BaseException as error:  # noqa: BLE001 - raised again where the build was started
                self.error = error


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


def build_engine(
    toolkit: Toolkit, recipe: EngineRecipe, graph: Path, announce: Announce, *, timing_cache: Path | None = None
) -> BuiltEngine:
    """Build an engine, in the calling thread; arguments and errors are those of `EngineKit.build`."""
    with toolkit.relay.heard(recipe.model) as messages:
        return _Build(toolkit, recipe, graph, messages, _Watch(announce), timing_cache).run()


def workspaces(limit_bytes: int) -> Iterator[int]:
    """Yield the workspace limits to try one after the other, in bytes; 0: as much as there is."""
    yield limit_bytes
    yield from (size for size in _SMALLER_WORKSPACES if limit_bytes == 0 or size < limit_bytes)


class _Build:
    """One build, from the file to the plan."""

    def __init__(
        self,
        toolkit: Toolkit,
        recipe: EngineRecipe,
        graph: Path,
        messages: Messages,
        watch: _Watch,
        timing_cache: Path | None,
    ) -> None:
        self._toolkit = toolkit
        self._trt = toolkit.trt
        self._recipe = recipe
        self._graph = graph
        self._messages = messages
        self._watch = watch
        self._timing_cache = timing_cache if toolkit.keeps_timings else None
        self._notes: list[str] = []
        self._builder = self._make_builder()
        self._network = self._builder.create_network(toolkit.network_flags())

    def run(self) -> BuiltEngine:
        self._parse()
        self._check_input()
        if self._recipe.precision == "fp16" and not self._toolkit.has_fast_fp16(self._builder):
            self._notes.append("this GPU computes no faster in half precision")
        for workspace_bytes in workspaces(self._recipe.workspace_bytes):
            if plan := self._attempt(workspace_bytes):
                return BuiltEngine(plan, tuple(self._notes))
        raise self._error("Building the engine needs more memory than it was given, whatever the workspace")

    def _make_builder(self) -> Any:
        try:
            return self._trt.Builder(self._toolkit.relay.logger)
        # pybind11 says "factory function returned nullptr"; the reason went to the logger.
        except (TypeError, RuntimeError) as cause:
            raise self._error("TensorRT's builder does not start") from cause

    def _parse(self) -> None:
        if not self._graph.is_file():
            raise EngineBuildError("The graph's file is missing.")
        parser = self._trt.OnnxParser(self._network, self._toolkit.relay.logger)
        if self._recipe.dla_core >= 0:
            self._toolkit.adjust_for_accelerator(parser)
        # By its path: weights may lie in files beside it.
        parser.parse_from_file(str(self._graph))
        if parser.num_errors:
            error = parser.get_error(0)
            raise EngineBuildError(f"TensorRT does not take {_node_of(error)}: {error.desc()}")
        if not self._network.num_outputs:
            raise EngineBuildError("TensorRT finds no graph in the file.")

    def _check_input(self) -> None:
        if self._network.num_inputs != 1:
            raise EngineBuildError(f"An engine has one input; this graph has {self._network.num_inputs}.")
        shape = tuple(self._network.get_input(0).shape)
        for wanted in self._recipe.profiles:
            if reason := wanted.misfit(shape):
                raise EngineBuildError(f"The graph cannot be built for {wanted.usual}: {reason}.")

    def _attempt(self, workspace_bytes: int) -> bytes | None:
        """Build once; None where memory did not suffice and a smaller workspace may help."""
        num_errors = len(self._messages.errors)
        config, monitor = self._configure(workspace_bytes)
        plan = self._builder.build_serialized_network(self._network, config)
        if self._watch.error is not None:
            raise self._watch.error
        if plan is not None:
            if self._timing_cache is not None:
                keep_timings(config, self._timing_cache)
            del monitor
            return bytes(plan)
        fault = recognize("; ".join(self._messages.errors[num_errors:]))
        if fault is None or not fault.is_memory:
            raise self._error("TensorRT cannot build the engine")
        _log.warning("memory did not suffice to build an engine", model=self._recipe.model, workspace=workspace_bytes)
        self._notes.append(f"memory did not suffice with {_amount(workspace_bytes)} of workspace")
        return None

    def _configure(self, workspace_bytes: int) -> tuple[Any, Any]:
        trt, recipe = self._trt, self._recipe
        config = self._builder.create_builder_config()
        config.progress_monitor = monitor = self._watch.monitor(trt)
        config.builder_optimization_level = recipe.optimization_level
        if workspace_bytes:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
        self._add_profiles(config)
        if recipe.dla_core >= 0:
            self._use_accelerator(config)
        if self._timing_cache is not None:
            attach_timings(config, self._timing_cache)
        return config, monitor

    def _add_profiles(self, config: Any) -> None:
        tensor = self._network.get_input(0)
        if -1 not in tuple(tensor.shape):
            return
        for wanted in self._recipe.profiles:
            profile = self._builder.create_optimization_profile()
            profile.set_shape(tensor.name, wanted.least, wanted.usual, wanted.most)
            if config.add_optimization_profile(profile) < 0:
                raise self._error(f"TensorRT does not take the profile {wanted.usual}")

    def _use_accelerator(self, config: Any) -> None:
        trt, core = self._trt, self._recipe.dla_core
        if core >= self._builder.num_DLA_cores:
            raise EngineBuildError(
                f"TRT_DLA_CORE={core} cannot be had: TensorRT finds {self._builder.num_DLA_cores} deep learning "
                "accelerators here. Set it to -1."
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        self._notes += accelerator_notes(self._recipe, self._network, config)

    def _error(self, what: str) -> EngineBuildError:
        text = self._messages.text
        fault = recognize(text)
        reason = f"{fault.why}. {fault.cure}" if fault else text or "TensorRT gave no reason"
        return EngineBuildError(f"{what}: {reason}")


def accelerator_notes(recipe: EngineRecipe, network: Any, config: Any) -> list[str]:
    """Tell what stays on the GPU although a deep learning accelerator was asked for.

    Args:
        recipe: What is built.
        network: An `INetworkDefinition`.
        config: The `IBuilderConfig`, the accelerator set as its default device.
    """
    notes = []
    if not all(wanted.is_static for wanted in recipe.profiles):
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
    cuda: Cuda | None = None
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

    def build(
        self, recipe: EngineRecipe, graph: Path, announce: Announce, *, timing_cache: Path | None = None
    ) -> BuiltEngine:
        """Build an engine; see `build_engine`.

        Where GPU and CPU share their memory, half of what is free is the most that a workspace is without a limit of
        its own: a build that took all of it would take it from the service. The system says what is free: CUDA does
        not count the page cache, which fills all of a board that has been up for a while and is given up on demand.
        """
        if not recipe.workspace_bytes and self.cuda is not None:
            properties = self.cuda.properties()
            if properties.is_integrated:
                free_bytes = self.read_free_bytes()
                half_bytes = int(free_bytes if isfinite(free_bytes) else properties.free_bytes) // 2
                recipe = replace(recipe, workspace_bytes=max(_LEAST_WORKSPACE_BYTES, half_bytes))
        return build_engine(self.toolkit, recipe, graph, announce, timing_cache=timing_cache)

    @property
    def num_dla_cores(self) -> int:
        """Ask TensorRT how many it can build for: 0 on all but AGX Orin and Orin NX, and in versions without them."""
        try:
            return int(self.toolkit.trt.Runtime(self.toolkit.relay.logger).num_DLA_cores)
        # pybind11's, where there is no device: opening an engine says why.
        except (TypeError, RuntimeError):
            return 0

    def open(self, plan: bytes, recipe: EngineRecipe) -> Backend:
        """Load a plan; see `open_engine`."""
        if self.cuda is None:
            raise EngineLoadError("There is no GPU to load the plan to.")
        return open_engine(
            self.toolkit.trt,
            plan,
            max_batch_size=recipe.max_batch_size,
            dla_core=recipe.dla_core,
            cuda=self.cuda,
            logger=self.toolkit.relay.logger,
        )


def device_facts(cuda: Cuda, jetson: Jetson | None) -> dict[str, str]:
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
