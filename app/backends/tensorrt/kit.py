"""TensorRT as an `EngineKit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from app.backends.cuda.runtime import CudaRuntime
from app.backends.engines.kit import BuildProgress, BuiltEngine, EngineRequest
from app.backends.protocol import Backend
from app.backends.tensorrt.builder import build_engine
from app.backends.tensorrt.module import Toolkit
from app.backends.tensorrt.runner import open_engine
from app.device.jetson import Jetson
from app.errors import EngineLoadError


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorrtKit:
    """Builds and opens engines with the TensorRT that was found."""

    toolkit: Toolkit
    device: Mapping[str, str] = field(default_factory=dict)
    """What plans are tied to besides the toolkit: GPU, compute capability, module, driver."""
    cuda: CudaRuntime | None = None
    """CUDA, for engines to run with; None only where nothing is opened."""

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
        its own: a build that took all of it would take it from the service.
        """
        if not request.workspace_bytes and self.cuda is not None:
            properties = self.cuda.properties()
            if properties.is_integrated:
                request = replace(request, workspace_bytes=max(1, properties.free_bytes // 2))
        return build_engine(self.toolkit, request, on_progress)

    def open(self, plan: bytes, *, max_batch_size: int) -> Backend:
        """Load a plan; see `open_engine`."""
        if self.cuda is None:
            raise EngineLoadError("There is no GPU to load the plan to.")
        return open_engine(
            self.toolkit.trt,
            plan,
            max_batch_size=max_batch_size,
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
