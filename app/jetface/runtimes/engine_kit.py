"""The recipe of an engine, and what builds and opens engines: TensorRT in service, a stand-in of our own in tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

from jetface.runtimes.backend import Backend

EnginePrecision = Literal["fp16", "fp32", "int8"]

PLAN_SUFFIX = ".plan"

_DIGEST_DIGITS = 16
"""Hexadecimal digits of a digest in a file name: 64 bits tell the few plans of a folder apart."""

Shape = tuple[int, ...]

Announce = Callable[[str], object]
"""Told the phase that a build has come to, in the toolkit's words. What it raises ends the build."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Input shapes an engine is built for, batch first, axes as the graph has them: (N, C, H, W) or (N, H, W, C)."""

    least: Shape
    usual: Shape
    """What the engine is tuned for."""
    most: Shape

    @property
    def is_static(self) -> bool:
        """Whether it is for one shape only: what a deep learning accelerator needs."""
        return self.least == self.most

    def misfit(self, shape: Sequence[int]) -> str | None:
        """Say why it does not fit the input of a graph, -1 where an axis is free; None when it does."""
        if {len(self.least), len(self.usual), len(self.most)} != {len(shape)}:
            return f"the graph's input has {len(shape)} axes, the profile {len(self.usual)}"
        for axis, (least, usual, most, fixed) in enumerate(zip(self.least, self.usual, self.most, shape, strict=True)):
            if not 1 <= least <= usual <= most:
                return f"the lengths {least}, {usual} and {most} of axis {axis} are not in order"
            if fixed >= 0 and not least == most == fixed:
                return f"axis {axis} is fixed to {fixed} in the graph, not {least} to {most}"
        return None


def usual_bucket(buckets: Sequence[int]) -> int:
    """Return the batch size an engine is tuned for: the smallest bucket not below the root of the largest.

    Kernels chosen for n items lose with the ratio to n, up and down; the root is as far from one item alone as from a
    full batch, and a group photo or a few waiting pictures are near it. So 32 is tuned for 8, 4 for 2. One item is
    the usual one only where no more are allowed.

    Args:
        buckets: Batch sizes a model is run with, at least one.
    """
    return min(bucket for bucket in buckets if bucket**2 >= max(buckets))


def profiles_for(item_shapes: Sequence[Shape], buckets: Sequence[int]) -> tuple[Profile, ...]:
    """Return a profile for each shape, tuned for it alone.

    Args:
        item_shapes: Of one item, without the batch, axes as the graph has them; the most usual first, at least one.
        buckets: Batch sizes a model is run with, at least one.
    """
    least, usual, most = min(buckets), usual_bucket(buckets), max(buckets)
    return tuple(
        Profile(least=(least, *shape), usual=(usual, *shape), most=(most, *shape))
        for shape in dict.fromkeys(item_shapes)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecipe:
    """All that decides what engine a model gets here. A plan fits where its recipe is equal.

    The timing cache is no part of it: it makes a build faster and its result no other.
    """

    model: str
    """Registry name."""
    graph_sha256: str
    """Of the prepared ONNX file."""
    precision: EnginePrecision
    """What that graph was cast to; inputs and outputs aside."""
    profiles: tuple[Profile, ...]
    """At least one, each for one shape of an item; a run takes the first that holds its shape."""
    workspace_bytes: int = 0
    """Most scratch memory on the device; 0: as much as there is."""
    optimization_level: int = 3
    """0 builds fastest, 5 looks longest for fast kernels."""
    dla_core: int = -1
    """Deep learning accelerator to run on, the GPU taking what it cannot; -1: the GPU alone."""
    toolkit: Mapping[str, str]
    """What `EngineKit.facts` says: version, GPU, compute capability."""

    @property
    def file_name(self) -> str:
        """Name of the plan's file: model, precision, and a digest of all there is here."""
        text = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_DIGITS]
        return f"{self.model}-{self.precision}-{digest}{PLAN_SUFFIX}"

    @property
    def item_shapes(self) -> tuple[Shape, ...]:
        """Shapes of one item, axes as the graph has them, the usual one first."""
        return tuple(profile.usual[1:] for profile in self.profiles)

    @property
    def max_batch_size(self) -> int:
        """Most items per run."""
        return max(profile.most[0] for profile in self.profiles)

    def misfit(self, facts: Mapping[str, str]) -> str | None:
        """Say why a plan made by it does not fit a toolkit and device that say so; None where it does."""
        for name in sorted({*self.toolkit, *facts}):
            built_for, here = self.toolkit.get(name), facts.get(name)
            if built_for != here:
                return f"built for {name} {built_for or 'unknown'}, here it is {here or 'unknown'}"
        return None


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
        """Return what plans are tied to: toolkit and version, device, compute capability."""
        ...

    @property
    def num_dla_cores(self) -> int:
        """Deep learning accelerators that engines can be built for here."""
        ...

    def build(
        self, recipe: EngineRecipe, graph: Path, announce: Announce, *, timing_cache: Path | None = None
    ) -> BuiltEngine:
        """Build an engine; seconds to many minutes, all in the calling thread.

        Args:
            recipe: What to build.
            graph: The prepared ONNX file it names.
            announce: Told of each phase.
            timing_cache: Kernel timings kept between builds; None keeps none.

        Raises:
            EngineBuildError: It cannot be built; the message says why, and names the node where one is to blame.
        """
        ...

    def open(self, plan: bytes, recipe: EngineRecipe) -> Backend:
        """Load a plan and make its buffers; the backend belongs to the thread that runs it first.

        Args:
            plan: What `build` made.
            recipe: By which: a plan does not say which accelerator it runs on.

        Raises:
            EngineLoadError: The plan is damaged, or of another version or device.
        """
        ...
