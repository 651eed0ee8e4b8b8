"""What engines need of a toolkit: TensorRT in service, a stand-in of our own in tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from jetface.runtimes.backend import Backend

EnginePrecision = Literal["fp16", "fp32", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Input shapes an engine is built for, batch first, axes as the graph has them: (N, C, H, W) or (N, H, W, C)."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    """What the engine is tuned for."""
    most: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """What to build. All of it, and what the toolkit says of itself and the device, decides whether a plan fits."""

    model: str
    """Registry name."""
    graph: Path
    """Prepared ONNX file; its precision is in the graph, inputs and outputs aside."""
    precision: EnginePrecision
    """What the graph was cast to, for names and reports."""
    profiles: tuple[Profile, ...]
    """At least one; a run takes the first that holds its shape."""
    workspace_bytes: int = 0
    """Most scratch memory on the device; 0: as much as there is."""
    optimization_level: int = 3
    """0 builds fastest, 5 looks longest for fast kernels."""
    dla_core: int = -1
    """Deep learning accelerator to run on, the GPU taking what it cannot; -1: the GPU alone."""
    timing_cache: Path | None = None
    """Kernel timings kept between builds; None keeps none."""


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a build is."""

    fraction: float
    """0 to 1; never goes back."""
    phase: str
    """What the toolkit is doing, in its words."""


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """A plan, and what there is to say about it."""

    plan: bytes
    notes: tuple[str, ...] = ()
    """For the operator: layers that stay on the GPU, a workspace that had to shrink, ..."""


class EngineKit(Protocol):
    """Builds and opens engines."""

    @property
    def name(self) -> str:
        """What an operator sees, such as `tensorrt`."""
        ...

    def facts(self) -> Mapping[str, str]:
        """Return what plans are tied to: toolkit and version, device, compute capability. Part of a plan's key."""
        ...

    @property
    def num_dla_cores(self) -> int:
        """Deep learning accelerators that engines can be built for here."""
        ...

    def build(self, request: EngineRequest, on_progress: Callable[[BuildProgress], None]) -> BuiltEngine:
        """Build an engine; seconds to many minutes, all in the calling thread.

        Raises:
            EngineBuildError: It cannot be built; the message says why, and names the node where one is to blame.
        """
        ...

    def open(self, plan: bytes, *, max_batch_size: int, dla_core: int = -1) -> Backend:
        """Load a plan and make its buffers; the backend belongs to the thread that runs it first.

        Args:
            plan: What `build` made.
            max_batch_size: Most items per run.
            dla_core: As in the request it was built for: a plan does not say which accelerator it runs on.

        Raises:
            EngineLoadError: The plan is damaged, or of another version or device.
        """
        ...
