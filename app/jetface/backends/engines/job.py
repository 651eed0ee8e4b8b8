"""What a building process is told, and what it tells: a job file in, JSON lines out.

The job file names the toolkit by import path. That is safe because of who writes it: the process that starts the build,
into a private temporary folder; nothing that comes from a request, a registry entry or a plan gets into it, and
whoever can write there could as well replace the program.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import Field, TypeAdapter, ValidationError

from jetface.backends.engines.files import PlanRecord
from jetface.backends.engines.key import EngineKey
from jetface.backends.engines.kit import EngineKit, EngineRequest
from jetface.errors import EngineBuildError
from jetface.specs import ModelSpec

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
