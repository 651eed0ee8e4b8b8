"""The recipe of an engine: graph, shapes and options, the job that a building process is given, and which plan fits.

The job file names the toolkit by import path. That is safe because of who writes it: the process that starts the build,
into a private temporary folder; nothing that comes from a request, a registry entry or a plan gets into it, and
whoever can write there could as well replace the program.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import Field, TypeAdapter, ValidationError

from jetface.engines.plan import EngineKey, PlanFolder, PlanRecord, engine_key
from jetface.errors import EngineBuildError
from jetface.graphs.prepare import PreparedFiles, PreparedGraph, prepare_graph
from jetface.graphs.rewrite import EVERYWHERE
from jetface.models.precision import Precisions
from jetface.models.weights import WeightsFolder
from jetface.registry import ModelSpec
from jetface.runtimes.backend import buckets_up_to
from jetface.runtimes.engine_kit import EngineKit, EnginePrecision, EngineRequest
from jetface.runtimes.tensorrt import profiles_for

Reference = Literal["onnxruntime", "toolkit"]
"""What an engine is judged by: ONNX Runtime in FP32 on the CPU; or, where that must not be imported, an engine that
the same toolkit builds in FP32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineJob:
    """One engine to build, check and keep."""

    kit: str
    """Import path of a function without arguments that returns the toolkit: `module:function`."""
    spec: ModelSpec
    weights: Path
    """Verified file of the model, for the check."""
    request: EngineRequest
    key: EngineKey
    max_batch_size: int
    takes_pixels: bool
    """Whether the graph normalises pixels itself."""
    canvases_hw: tuple[tuple[int, int], ...]
    """Heights and widths a detector is run at, the largest first; empty for other models."""
    reference: Reference
    folder: Path | None
    """Where plans are kept; None keeps none."""
    prepared_folders: tuple[Path, ...]
    """Where prepared graphs are kept, the first that can be written."""
    parent_pid: int
    """Whose child the building process is: it ends with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far the work is."""

    kind: Literal["step"] = "step"
    state: Literal["building", "checking"]
    fraction: float = Field(ge=0, le=1)
    """Of the build."""
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


Report = Annotated[Step | Accepted | Rejected, Field(discriminator="kind")]

_JOB: TypeAdapter[EngineJob] = TypeAdapter(EngineJob)
_REPORT: TypeAdapter[Step | Accepted | Rejected] = TypeAdapter(Report)


def write_job(job: EngineJob, path: Path) -> None:
    """Write a job file."""
    path.write_bytes(_JOB.dump_json(job))


def read_job(path: Path) -> EngineJob:
    """Read a job file.

    Raises:
        EngineBuildError: It is none.
    """
    try:
        return _JOB.validate_json(path.read_bytes())
    except (OSError, ValidationError) as cause:
        raise EngineBuildError("The job file cannot be read.") from cause


def plan_beside(job_file: Path) -> Path:
    """Return where a plan goes that cannot be kept."""
    return job_file.with_name("engine.plan")


def encode_report(report: Step | Accepted | Rejected) -> bytes:
    """Write a report as one line."""
    return _REPORT.dump_json(report) + b"\n"


def decode_report(line: bytes) -> Step | Accepted | Rejected | None:
    """Read one line; None where it is no report: libraries write into any stream."""
    try:
        return _REPORT.validate_json(line)
    except ValidationError:
        return None


def load_kit(import_path: str) -> EngineKit:
    """Return the toolkit a job names.

    Raises:
        EngineBuildError: There is no such function.
        BackendUnavailableError: The toolkit cannot be had here.
    """
    module_name, _, function_name = import_path.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as cause:
        raise EngineBuildError(f"There is no toolkit {import_path}.") from cause
    return cast("Callable[[], EngineKit]", factory)()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How engines are built here."""

    precisions: Precisions
    det_batch_size: int
    rec_batch_size: int
    canvases_hw: tuple[tuple[int, int], ...]
    """Heights and widths a detector of free canvas is run at, the largest first."""
    workspace_bytes: int = 0
    """Most scratch memory of a build on the device; 0: as much as there is."""
    optimization_level: int = 3
    dla_core: int = -1
    reference: Reference = "onnxruntime"
    """What engines are judged by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecipe:
    """All there is to know of one engine before it is built."""

    spec: ModelSpec
    weights: Path
    graph: PreparedGraph
    request: EngineRequest
    key: EngineKey
    max_batch_size: int
    canvases_hw: tuple[tuple[int, int], ...]
    """As in `EngineJob`."""
    reference: Reference
    prepared: PreparedFiles
    """Where its graph is kept."""

    @property
    def item_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of one item, axes as the graph has them, the usual one first."""
        return tuple(dict.fromkeys(profile.usual[1:] for profile in self.request.profiles))

    def job(self, factory: str, folder: Path | None) -> EngineJob:
        """Return what a child of this process is told to build it."""
        return EngineJob(
            kit=factory,
            spec=self.spec,
            weights=self.weights.absolute(),
            request=self.request,
            key=self.key,
            max_batch_size=self.max_batch_size,
            takes_pixels=self.graph.takes_pixels,
            canvases_hw=self.canvases_hw,
            reference=self.reference,
            folder=folder,
            prepared_folders=tuple(kept.absolute() for kept in self.prepared.folders),
            parent_pid=os.getpid(),
        )


@dataclass(frozen=True, slots=True)
class EngineSource:
    """A toolkit, and how a building process comes by the same one."""

    kit: EngineKit
    factory: str
    """Import path of a function without arguments that returns it: `module:function`."""


class EngineRecipes:
    """Says of models what their engines are made of. Not thread-safe; to be closed."""

    def __init__(self, weights: WeightsFolder, source: EngineSource, options: EngineOptions, plans: PlanFolder) -> None:
        """Create a book of recipes.

        Args:
            weights: Where weights are.
            source: What builds engines.
            options: How.
            plans: Where plans are kept.
        """
        self.source = source
        self.options = options
        self.plans = plans
        self.weights = weights
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Remove graphs that could not be kept among the prepared ones."""
        if self._scratch is not None:
            self._scratch.cleanup()

    def recipe(self, spec: ModelSpec, weights: Path | None = None) -> EngineRecipe:
        """Prepare the graph and say what its engine is made of. Blocks.

        Args:
            spec: The model.
            weights: Its verified file; None finds it, a download included.

        Raises:
            ModelError: The weights cannot be had, or are not those of the entry.
            EngineBuildError: The graph can be written nowhere.
        """
        path = weights or self.weights.locate(spec)
        precision: EnginePrecision = self.options.precisions.of_engine(spec)
        quantized = self.options.precisions.quantized(spec, path, self.weights.folder)
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
            precision="fp16" if precision == "fp16" else "fp32",
            cache=prepared,
            # The process that serves must not load it where engines are judged without it.
            has_onnxruntime=self.options.reference == "onnxruntime",
        )
        file = self._file(graph, spec)
        most = self.options.det_batch_size if spec.task == "detection" else self.options.rec_batch_size
        max_batch_size = most if graph.is_batch_free else 1
        canvases_hw: tuple[tuple[int, int], ...] = ()
        sizes_hw: Sequence[tuple[int, int]] = [graph.input_hw] if graph.input_hw else self.options.canvases_hw
        if spec.task == "detection":
            canvases_hw = tuple(dict.fromkeys(sizes_hw))
        shapes = [(*hw, 3) if graph.takes_pixels else (3, *hw) for hw in sizes_hw]
        request = EngineRequest(
            model=spec.name,
            graph=file.absolute(),
            precision=precision,
            profiles=profiles_for(shapes, buckets_up_to(max_batch_size)),
            workspace_bytes=self.options.workspace_bytes,
            optimization_level=self.options.optimization_level,
            dla_core=self.options.dla_core,
            timing_cache=self.plans.folder.absolute() / "timings.cache" if self.plans.folder else None,
        )
        return EngineRecipe(
            spec=spec,
            weights=path,
            graph=graph,
            request=request,
            key=engine_key(request, graph_sha256=_sha256(file), facts=self.source.kit.facts()),
            max_batch_size=max_batch_size,
            canvases_hw=canvases_hw,
            reference=self.options.reference,
            prepared=prepared,
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
