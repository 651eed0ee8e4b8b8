"""TensorRT as an `EngineKit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite

from jetface.backends.cuda.runtime import CudaRuntime
from jetface.backends.engines.kit import BuildProgress, BuiltEngine, EngineRequest
from jetface.backends.memory import free_memory_bytes
from jetface.backends.protocol import Backend
from jetface.backends.tensorrt.builder import build_engine
from jetface.backends.tensorrt.module import Toolkit
from jetface.backends.tensorrt.runner import open_engine
from jetface.device.jetson import Jetson
from jetface.errors import EngineLoadError

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
