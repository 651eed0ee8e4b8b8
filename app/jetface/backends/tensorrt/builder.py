"""Building engines: one path for every TensorRT there is, see `jetface.backends.tensorrt.module`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import structlog

from jetface.backends.engines.kit import BuildProgress, BuiltEngine, EngineRequest
from jetface.backends.faults import recognize
from jetface.backends.tensorrt.messages import Messages
from jetface.backends.tensorrt.module import Toolkit
from jetface.backends.tensorrt.profiles import misfit, static_shape
from jetface.backends.tensorrt.progress import BuildWatch
from jetface.backends.tensorrt.timings import attach_timings, keep_timings
from jetface.errors import EngineBuildError

_log = structlog.get_logger(__name__)

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
