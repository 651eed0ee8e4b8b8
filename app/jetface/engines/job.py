"""The job of a building process: the recipe of an engine, and what it takes to build, check and keep it.

The job file names the toolkit by import path. That is safe because of who writes it: the process that starts the build,
into a private temporary folder; nothing that comes from a request, a registry entry or a plan gets into it, and
whoever can write there could as well replace the program.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from jetface.engines.plan import PlanFolder, PlanRecord
from jetface.errors import EngineBuildError
from jetface.graphs.prepare import PreparedFiles, PreparedGraph, prepare_graph
from jetface.graphs.rewrite import EVERYWHERE
from jetface.models.precision import Precisions
from jetface.models.weights import WeightsFolder
from jetface.registry import ModelSpec
from jetface.runtimes.backend import buckets_up_to
from jetface.runtimes.engine_kit import EngineKit, EnginePrecision, EngineRecipe, profiles_for

Reference = Literal["onnxruntime", "toolkit"]
"""What an engine is judged by: ONNX Runtime in FP32 on the CPU; or, where that must not be imported, an engine that
the same toolkit builds in FP32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineJob:
    """One engine to build, check and keep. Its graph takes pixels and normalises them itself."""

    recipe: EngineRecipe
    spec: ModelSpec
    weights: Path
    """Verified file of the model, for the check."""
    graph: Path
    """Prepared ONNX file of the recipe."""
    input_hw: tuple[int, int] | None
    """Height and width the graph is fixed to, pixels; None when it takes any canvas."""
    is_batch_free: bool
    source_sha256: str
    """As in `PreparedGraph`."""
    kit: str
    """Import path of a function without arguments that returns the toolkit: `module:function`."""
    reference: Reference
    folder: Path | None
    """Where plans are kept; None keeps none."""
    prepared_folders: tuple[Path, ...]
    """Where prepared graphs are kept, the first that can be written."""

    @property
    def timing_cache(self) -> Path | None:
        """Where kernel timings are kept between builds."""
        return self.folder and self.folder / "timings.cache"

    @property
    def canvases_hw(self) -> tuple[tuple[int, int], ...]:
        """Heights and widths a detector is run at, the largest first; empty for other models."""
        if not self.spec.is_detector:
            return ()
        return tuple((shape[0], shape[1]) for shape in self.recipe.item_shapes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A phase that the work has come to."""

    kind: Literal["step"] = "step"
    state: Literal["building", "checking"]
    phase: str
    """What is being done, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The engine passed its check."""

    kind: Literal["accepted"] = "accepted"
    record: PlanRecord
    is_kept: bool
    """Whether the plan is in the folder of plans; else it is beside the job file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """There is no engine that could serve."""

    kind: Literal["rejected"] = "rejected"
    reason: str
    """One sentence."""


JOB: TypeAdapter[EngineJob] = TypeAdapter(EngineJob)
"""Writes and reads job files."""

REPORT: TypeAdapter[Step | Accepted | Rejected] = TypeAdapter(
    Annotated[Step | Accepted | Rejected, Field(discriminator="kind")]
)
"""Writes and reads what a building process reports, one JSON object a line."""


def plan_beside(job_file: Path) -> Path:
    """Return where a plan goes that cannot be kept."""
    return job_file.with_name("engine.plan")


@dataclass(frozen=True, slots=True)
class EngineSource:
    """A toolkit, and how a building process comes by the same one."""

    kit: EngineKit
    factory: str
    """Import path of a function without arguments that returns it: `module:function`."""


@dataclass(kw_only=True)
class EngineJobs:
    """Makes jobs for models. Not thread-safe; to be closed."""

    weights: WeightsFolder
    source: EngineSource
    plans: PlanFolder
    precisions: Precisions
    det_batch_size: int
    rec_batch_size: int
    canvases_hw: tuple[tuple[int, int], ...]
    """Heights and widths a detector of free canvas is run at, the largest first."""
    workspace_bytes: int = 0
    optimization_level: int = 3
    dla_core: int = -1
    """The last three as in `EngineRecipe`."""
    reference: Reference = "onnxruntime"
    _scratch: tempfile.TemporaryDirectory[str] | None = field(default=None, init=False)

    def close(self) -> None:
        """Remove graphs that could not be kept among the prepared ones."""
        if self._scratch is not None:
            self._scratch.cleanup()

    def job(self, spec: ModelSpec, weights: Path | None = None) -> EngineJob:
        """Prepare the graph and say what its engine is made of. Blocks.

        Args:
            spec: The model.
            weights: Its verified file; None finds it, a download included.

        Raises:
            ModelError: The weights cannot be had, or are not those of the entry.
            EngineBuildError: The graph can be written nowhere.
        """
        path = weights or self.weights.locate(spec)
        rest = self.precisions.of_engine(spec)
        precision: EnginePrecision = rest
        quantized = self.precisions.quantized(spec, path, self.weights.folder)
        if quantized is not None:
            # What it is judged by is the same graph: how near that is to FP32 was judged when it was made.
            path, precision = quantized, "int8"
        spare = [self.plans.folder / "prepared"] if self.plans.folder else []
        prepared = PreparedFiles(self.weights.folder / "prepared", *spare)
        graph = prepare_graph(
            path,
            spec,
            rewrites=EVERYWHERE,
            pixels=True,
            precision=rest,
            cache=prepared,
            # The process that serves must not load it where engines are judged without it.
            has_onnxruntime=self.reference == "onnxruntime",
        )
        file = self._file(graph, spec).absolute()
        most = self.det_batch_size if spec.is_detector else self.rec_batch_size
        sizes_hw: Sequence[tuple[int, int]] = [graph.input_hw] if graph.input_hw else self.canvases_hw
        recipe = EngineRecipe(
            model=spec.name,
            graph_sha256=_sha256(file),
            precision=precision,
            profiles=profiles_for([(*hw, 3) for hw in sizes_hw], buckets_up_to(most if graph.is_batch_free else 1)),
            workspace_bytes=self.workspace_bytes,
            optimization_level=self.optimization_level,
            dla_core=self.dla_core,
            toolkit=dict(self.source.kit.facts()),
        )
        return EngineJob(
            recipe=recipe,
            spec=spec,
            weights=path.absolute(),
            graph=file,
            input_hw=graph.input_hw,
            is_batch_free=graph.is_batch_free,
            source_sha256=graph.source_sha256,
            kit=self.source.factory,
            reference=self.reference,
            folder=self.plans.folder and self.plans.folder.absolute(),
            prepared_folders=tuple(folder.absolute() for folder in prepared.folders),
        )

    def _file(self, graph: PreparedGraph, spec: ModelSpec) -> Path:
        if isinstance(graph.model, Path):
            return graph.model
        try:
            self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="jetface-graphs-")
        except OSError as cause:
            raise _nowhere(cause, len(graph.model)) from cause
        return written(graph.model, Path(self._scratch.name) / f"{spec.name}.onnx")


def written(graph: bytes, path: Path) -> Path:
    """Write a graph that no folder keeps, where TensorRT can read it; return where.

    Raises:
        EngineBuildError: There is no room.
    """
    try:
        path.write_bytes(graph)
    except OSError as cause:
        path.unlink(missing_ok=True)
        raise _nowhere(cause, len(graph)) from cause
    return path


def _nowhere(cause: OSError, num_bytes: int) -> EngineBuildError:
    return EngineBuildError(
        f"The prepared graph, {num_bytes / 2**20:.0f} MiB, can be written nowhere: {cause.strerror}. Let MODELS_DIR or "
        "TRT_ENGINE_CACHE_PATH be written, or make /tmp larger."
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
