"""The building process: what it is told, what it does, what it reports.

The lock is the operating system's, on an open file: it is free the moment its holder ends, however that ends. So the
rule for stale locks is that there are none: a `.build.lock` that lies in the folder means nothing by itself and may be
removed by nobody. Where a file system knows no locks, or the folder cannot be written, builds go on without: two
processes then do the work twice, and the plan that is written last stays, whole.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import filelock
import structlog
from pydantic import ValidationError

from jetface.device.faults import Fault
from jetface.engines.check import check_engine
from jetface.engines.job import JOB, REPORT, Accepted, EngineJob, Rejected, Step, plan_beside
from jetface.engines.plan import PlanFolder, PlanRecord
from jetface.errors import BackendUnavailableError, EngineBuildError, ServiceError
from jetface.logs import configure_logs
from jetface.runtimes.choose import Host, try_tensorrt
from jetface.runtimes.engine_kit import EngineKit

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


def report_stream() -> BinaryIO:
    """Return what standard output was, unbuffered, and let everything else that is written there go to standard error.

    Libraries write into standard output as they like, from C too.
    """
    stream = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return stream


FACTORY = "jetface.engines.build:open_kit"
"""Import path for a job."""


def open_kit() -> EngineKit:
    """Return TensorRT.

    Raises:
        BackendUnavailableError: It cannot be had; says why and what to do.
    """
    found = try_tensorrt(Host(), is_required=True)
    if isinstance(found, Fault):
        raise BackendUnavailableError(f"Engines need TensorRT and a GPU. {found.sentence}")
    return found


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


Tell = Callable[[Step | Accepted | Rejected], object]


def run_job_file(path: Path, parent_pid: int) -> None:
    """Do what a job file says, as the process that was started for it, and report on standard output.

    Args:
        path: The job file.
        parent_pid: Who started this process: it ends with it.

    Raises:
        EngineBuildError: The file is no job.
        SystemExit: Whoever wrote it is gone.
    """
    try:
        job = JOB.validate_json(path.read_bytes())
    except (OSError, ValidationError) as cause:
        raise EngineBuildError("The job file cannot be read.") from cause
    end_with(parent_pid)
    os.nice(_NICENESS)
    with report_stream() as stream:
        run_job(job, plan_beside(path), lambda report: stream.write(REPORT.dump_json(report) + b"\n"))


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
    tell(Step(state="building", phase="starting"))
    kit = load_kit(job.kit)
    plans = PlanFolder(job.folder)
    waiting = Step(state="building", phase="waiting for another process that builds")
    with build_lock(job.folder, on_wait=partial(tell, waiting)):
        # Whom we waited for may have built the very same.
        if kept := plans.find(job.recipe):
            return Accepted(record=kept.record, is_kept=True)
        started = time.perf_counter()
        built = kit.build(
            job.recipe, job.graph, lambda phase: tell(Step(state="building", phase=phase)),
            timing_cache=job.timing_cache,
        )  # fmt: skip
        tell(Step(state="checking", phase="comparing with the model in FP32"))
        try:
            verdict, fault = check_engine(job, kit, built.plan, fallback.parent)
        except ServiceError as error:
            return Rejected(reason=f"The engine was built, but its check could not be run: {error.message}")
        if fault:
            return Rejected(reason=f"The engine {fault}.")
        record = PlanRecord.of(
            job.recipe, built.plan, verdict=verdict, notes=built.notes, build_s=time.perf_counter() - started
        )
        if plans.keep(built.plan, record):
            return Accepted(record=record, is_kept=True)
    fallback.write_bytes(built.plan)
    return Accepted(record=record, is_kept=False)


if __name__ == "__main__":
    configure_logs("WARNING", "text")
    try:
        run_job_file(Path(sys.argv[1]), int(sys.argv[2]))
    except EngineBuildError as error:
        raise SystemExit(error.message) from error
