"""An engine built in a process of its own, which may crash, hang or be killed without harm to the service."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog
from pydantic import ValidationError

from jetface.engines.job import JOB, REPORT, Accepted, EngineJob, Rejected, Step, plan_beside
from jetface.engines.plan import KeptPlan, PlanFolder
from jetface.errors import EngineBuildError

_log = structlog.get_logger(__name__)


BUILD_COMMAND = (sys.executable, "-m", "jetface.engines.build")
"""By the interpreter that runs this; the path of the job file and the number of this process follow."""

DEADLINE_S = 7200.0
"""Longest a build may take, the wait for another process's included: the largest models took a Jetson a quarter of an
hour at most, and a build that hangs must not keep the lock for ever."""

_PREFIX = "jetface-engine-"
"""Of a job's temporary folder."""
_LONGEST_LINE_BYTES = 2**20
_LAST_WORDS_BYTES = 4096
_LAST_LINE_CHARACTERS = 300
END_S = 10.0
"""How long a process may take to end that has said all it had to say, or has closed its stream as the dying do."""


@dataclass
class EngineChild:
    """One build. `run` blocks; `stop` may be called from any thread, before, during and after."""

    job: EngineJob
    on_step: Callable[[Step], object]
    """Called on the thread of `run`, for each step."""
    command: Sequence[str] = BUILD_COMMAND
    """Program and arguments; the path of the job file and the number of this process follow."""
    deadline_s: float = DEADLINE_S
    """Longest it may take, seconds."""
    end_s: float = END_S
    """Longest a process may take to end that says nothing more, seconds."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _stopped_why: str | None = field(default=None, init=False)

    def run(self) -> KeptPlan:
        """Build, check and keep the engine.

        The process is the child of the calling thread and ends with it.

        Returns:
            The plan that passed, its checksum verified.

        Raises:
            EngineBuildError: There is none; the message says why.
        """
        try:
            with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
                job_file = Path(folder) / "job.json"
                job_file.write_bytes(JOB.dump_json(self.job))
                return self._run(job_file)
        except OSError as cause:
            cure = " Make room in /tmp, or start the container anew." if _is_about_room(cause) else ""
            raise EngineBuildError(f"The building process cannot be started: {cause.strerror}.{cure}") from cause

    def stop(self, why: str = "it was stopped") -> None:
        """Kill the process, if it runs, and start none any more."""
        with self._lock:
            self._stopped_why = self._stopped_why or why
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def _run(self, job_file: Path) -> KeptPlan:
        with self._lock:
            if self._stopped_why:
                raise EngineBuildError(f"The engine was not built: {self._stopped_why}.")
            process = self._process = subprocess.Popen(  # noqa: S603 - our own program, see `BUILD_COMMAND`
                [*self.command, str(job_file), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        watchdog = threading.Timer(self.deadline_s, self.stop, [f"it took longer than {self.deadline_s:.0f} s"])
        watchdog.daemon = True
        watchdog.start()
        last_words = _LastWords(process.stderr)
        end: Accepted | Rejected | None = None
        try:
            end = self._follow(process)
        finally:
            watchdog.cancel()
            self._reap(process, is_told=end is not None)
            text = last_words.text()
        if isinstance(end, Accepted):
            return self._collect(end, job_file)
        _log.warning(
            "building process has ended without an engine", model=self.job.spec.name, exit=process.returncode, said=text
        )
        if isinstance(end, Rejected):
            raise EngineBuildError(end.reason)
        raise EngineBuildError(self._fate(process.returncode, text))

    def _follow(self, process: subprocess.Popen[bytes]) -> Accepted | Rejected | None:
        """Read reports until the last one, or until there are no more."""
        stream = _stream(process.stdout)
        while line := stream.readline(_LONGEST_LINE_BYTES):
            try:
                report = REPORT.validate_json(line)
            except ValidationError:  # libraries write into any stream
                continue
            if isinstance(report, Step):
                self.on_step(report)
            else:
                return report
        return None

    def _reap(self, process: subprocess.Popen[bytes], *, is_told: bool) -> None:
        """See the process to its end: nothing more can come from it, but an interpreter takes its time to die."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.end_s)
        with self._lock:
            if process.poll() is None:
                if not is_told:
                    self._stopped_why = self._stopped_why or "the building process stopped reporting and was ended"
                process.kill()
        process.wait()
        _stream(process.stdout).close()

    def _collect(self, end: Accepted, job_file: Path) -> KeptPlan:
        if end.is_kept:
            kept = PlanFolder(self.job.folder).find(self.job.recipe)
            if kept is None:
                raise EngineBuildError("The plan is gone or damaged since it was built.")
            return kept
        plan = plan_beside(job_file).read_bytes()
        if hashlib.sha256(plan).hexdigest() != end.record.plan_sha256:
            raise EngineBuildError("The plan was damaged on its way from the building process.")
        return KeptPlan(plan, end.record)

    def _fate(self, exit_code: int, last_words: str) -> str:
        if self._stopped_why:
            return f"The engine was not built: {self._stopped_why}."
        how = f"exit code {exit_code}"
        if exit_code < 0:
            with contextlib.suppress(ValueError):
                how = f"signal {signal.Signals(-exit_code).name}"
        hint = ", as happens when memory runs out" if exit_code == -signal.SIGKILL else ""
        last_line = last_words.strip().rpartition("\n")[2][:_LAST_LINE_CHARACTERS]
        said = f" Its last words: {last_line}" if last_line else ""
        return f"The building process died ({how}{hint}).{said}"


def _is_about_room(cause: OSError) -> bool:
    """Whether there is no room for the job; where no folder takes a file, Python says that there is no folder."""
    is_full = cause.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
    return is_full or _PREFIX in str(cause.filename) or "temporary directory" in str(cause.strerror)


class _LastWords:
    """Keeps the end of what a process says, and lets it say as much as it likes."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._stream = _stream(stream)
        self._tail = b""
        self._thread = threading.Thread(target=self._read, name="engine-stderr", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """Return the last of it; the process has ended."""
        self._thread.join(END_S)
        return self._tail.decode(errors="replace")

    def _read(self) -> None:
        with self._stream:
            while chunk := os.read(self._stream.fileno(), 2**16):
                self._tail = (self._tail + chunk)[-_LAST_WORDS_BYTES:]


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:  # pragma: no cover - both are pipes
        raise EngineBuildError("The building process has no stream.")
    return stream
