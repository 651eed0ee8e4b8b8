"""The building process: what it is told, what it does, what it tells.

The lock is the operating system's, on an open file: it is free the moment its holder ends, however that ends. So the
rule for stale locks is that there are none: a `.build.lock` that lies in the folder means nothing by itself and may be
removed by nobody. Where a file system knows no locks, or the folder cannot be written, builds go on without: two
processes then do the work twice, and the plan that is written last stays, whole.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import filelock
import structlog

from jetface.device.faults import Fault
from jetface.engines.check import compare, open_reference
from jetface.engines.plan import PlanFolder, record_of
from jetface.engines.recipe import (
    Accepted,
    EngineJob,
    Rejected,
    Step,
    encode_report,
    load_kit,
    plan_beside,
    read_job,
    written,
)
from jetface.errors import BackendUnavailableError, ServiceError
from jetface.graphs.prepare import PreparedFiles, prepare_graph
from jetface.runtimes.backend import Backend
from jetface.runtimes.choose import Probes, try_tensorrt
from jetface.runtimes.engine_kit import BuildProgress, BuiltEngine, EngineKit
from jetface.runtimes.tensorrt import profiles_for

_log = structlog.get_logger(__name__)

LOCK_NAME = ".build.lock"

_POLL_S = 0.2


@contextmanager
def build_lock(folder: Path | None, *, on_wait: Callable[[], object]) -> Iterator[None]:
    """Hold the lock of a folder of plans for the block.

    Args:
        folder: Made where it is missing; None needs no lock, as there is nothing to share.
        on_wait: Called once when another process holds the lock; this one then waits as long as that takes.
    """
    lock = None if folder is None else _acquire(folder, on_wait)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _acquire(folder: Path, on_wait: Callable[[], object]) -> filelock.BaseFileLock | None:
    lock = filelock.FileLock(folder / LOCK_NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            on_wait()
            lock.acquire(poll_interval=_POLL_S)
    except (OSError, NotImplementedError) as cause:
        _log.warning("engines are built without a lock", folder=str(folder), reason=str(cause))
        return None
    return lock


_NICENESS = 10
"""Of the build's threads; Linux derives the priority of their disk accesses from it too."""

_PR_SET_PDEATHSIG = 1
"""Source: `linux/prctl.h`."""


def end_with(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent ends, however that ends.

    Raises:
        SystemExit: The parent has ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit("the process that asked for this engine is gone")


def give_way() -> None:
    """Take a lower priority than the process that serves."""
    os.nice(_NICENESS)


def report_stream() -> BinaryIO:
    """Return what standard output was, unbuffered, and let everything else that is written there go to standard error.

    Libraries write into standard output as they like, from C too.
    """
    stream = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return stream


FACTORY = f"{__name__}:open_kit"
"""Import path for a job."""


def open_kit() -> EngineKit:
    """Return TensorRT.

    Raises:
        BackendUnavailableError: It cannot be had; says why and what to do.
    """
    found = try_tensorrt(Probes(), is_required=True)
    if isinstance(found, Fault):
        raise BackendUnavailableError(f"Engines need TensorRT and a GPU. {found.sentence}")
    return found


Tell = Callable[[Step | Accepted | Rejected], object]

_LEAST_STEP = 0.005
"""Progress is told in steps of at least this fraction."""


def run_job_file(path: Path) -> None:
    """Do what a job file says, as the process that was started for it, and report on standard output.

    Raises:
        EngineBuildError: The file is no job.
        SystemExit: Whoever wrote it is gone.
    """
    job = read_job(path)
    end_with(job.parent_pid)
    give_way()
    with report_stream() as stream:
        run_job(job, plan_beside(path), lambda report: stream.write(encode_report(report)))


def run_job(job: EngineJob, fallback: Path, tell: Tell) -> None:
    """Build, check and keep an engine; what comes of it is the last report.

    Args:
        job: What to do.
        fallback: Where the plan goes when it cannot be kept.
        tell: Called with each report.
    """
    try:
        end = _make(job, fallback, tell)
    except ServiceError as error:
        end = Rejected(reason=error.message)
    except OSError as cause:
        end = Rejected(reason=f"The plan can be written nowhere: {cause.strerror}.")
    tell(end)


def _make(job: EngineJob, fallback: Path, tell: Tell) -> Accepted | Rejected:
    tell(Step(state="building", fraction=0.0, phase="starting"))
    kit = load_kit(job.kit)
    plans = PlanFolder(job.folder)
    waiting = Step(state="building", fraction=0.0, phase="waiting for another process that builds")
    with build_lock(job.folder, on_wait=partial(tell, waiting)):
        # Whom we waited for may have built the very same.
        if kept := plans.find(job.key):
            return Accepted(record=kept.record, is_kept=True)
        started = time.perf_counter()
        built = kit.build(job.request, _progress(tell))
        tell(Step(state="checking", fraction=1.0, phase="comparing with the model in FP32"))
        verdict, fault = _check(job, kit, built, fallback.parent)
        if fault:
            return Rejected(reason=fault)
        build_s = time.perf_counter() - started
        record = record_of(job.key, built.plan, verdict=verdict, notes=built.notes, build_s=build_s)
        if plans.keep(built.plan, record):
            return Accepted(record=record, is_kept=True)
    fallback.write_bytes(built.plan)
    return Accepted(record=record, is_kept=False)


def _check(job: EngineJob, kit: EngineKit, built: BuiltEngine, scratch: Path) -> tuple[str, str | None]:
    """Return what the check measured, and why the engine is no good, None where it is."""
    judge = "ONNX Runtime" if job.reference == "onnxruntime" else "an engine of the same toolkit"
    try:
        with (
            closing(kit.open(built.plan, max_batch_size=job.max_batch_size, dla_core=job.request.dla_core)) as engine,
            closing(_reference(job, kit, scratch)) as reference,
        ):
            check = compare(
                job.spec,
                engine,
                reference,
                takes_pixels=job.takes_pixels,
                canvases_hw=job.canvases_hw,
                is_int8=job.request.precision == "int8",
            )
    except ServiceError as error:
        return "", f"The engine was built, but its check could not be run: {error.message}"
    if check.fault:
        return check.verdict, f"The engine does not agree with {judge} in FP32: {check.fault}."
    return f"{check.verdict}, by {judge} in FP32", None


def _reference(job: EngineJob, kit: EngineKit, scratch: Path) -> Backend:
    """Open the model as it was published, in FP32, one item at a time."""
    if job.reference == "onnxruntime":
        return open_reference(job.weights, job.spec)
    cache = PreparedFiles(*job.prepared_folders)
    graph = prepare_graph(job.weights, job.spec, has_onnxruntime=False, cache=cache).model
    path = graph if isinstance(graph, Path) else written(graph, scratch / "reference.onnx")
    sizes_hw = job.canvases_hw or ((job.spec.input.height_px, job.spec.input.width_px),)
    profiles = profiles_for([(3, *image_hw) for image_hw in sizes_hw], (1,))
    request = replace(job.request, graph=path, precision="fp32", profiles=profiles, dla_core=-1)
    return kit.open(kit.build(request, lambda _: None).plan, max_batch_size=1)


def _progress(tell: Tell) -> Callable[[BuildProgress], None]:
    told = [0.0]

    def on_progress(progress: BuildProgress) -> None:
        if progress.fraction - told[0] >= _LEAST_STEP:
            told[0] = progress.fraction
            tell(Step(state="building", fraction=min(progress.fraction, 1.0), phase=progress.phase))

    return on_progress
