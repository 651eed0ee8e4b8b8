"""The supervisor of several workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from typing_extensions import Self

import jetface.server.workers
from jetface.device.checks import STARTUP_FAILURE

SUPERVISE = """
import sys, jetface.server.workers
from jetface.logs import configure_logs
configure_logs("INFO", "json")
jetface.server.workers.LONGEST_PAUSE_S = float(sys.argv[2])
jetface.server.workers.STEADY_S = 1e9
command = [sys.executable, "-c", sys.argv[3]]
supervisor = jetface.server.workers.Supervisor
sys.exit(supervisor(int(sys.argv[1]), command, [], grace_s=1, timeout_s=float(sys.argv[4])).run())
"""


SERVE = """
import os, signal, socket, sys, time
slot, control = map(int, sys.argv[1].split(":")[:2])
control = socket.socket(fileno=control)
"""


class Parent:
    """A supervisor in a process of its own, its workers being small programs."""

    def __init__(
        self, folder: Path, worker: str, *, num_workers: int = 2, pause_s: float = 0.05, timeout_s: float = 60
    ) -> None:
        self.log = folder / "log"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISE, str(num_workers), str(pause_s), SERVE + worker, str(timeout_s)],
                stderr=stream,
                start_new_session=True,
            )

    def events(self, name: str) -> list[dict[str, object]]:
        """What it logged by this name so far."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [each for each in found if each["event"] == name]

    def wait_for(self, name: str, count: int = 1) -> list[dict[str, object]]:
        """Wait until something was logged so often."""
        deadline = time.monotonic() + 60
        while len(found := self.events(name)) < count:
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


GOES_ON = "control.send(b'S')\nwhile True: time.sleep(0.1); control.send(b'.')"


class TestSupervisor:
    """The parent, its workers being real processes."""

    def test_what_says_that_it_cannot_start_ends_the_service(self, tmp_path: Path) -> None:
        """At the first start, and by exit code 3: it is not tried again."""
        with Parent(tmp_path, "sys.exit(3) if slot else time.sleep(60)") as parent:
            assert parent.process.wait(30) == STARTUP_FAILURE
            assert len(parent.events("worker started")) == 2
            assert len(parent.events("the service cannot start")) == 1

    def test_what_crashes_at_each_start_ends_the_service_too(self, tmp_path: Path) -> None:
        """After a few starts with pauses between them that grow."""
        with Parent(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)", num_workers=1) as parent:
            assert parent.process.wait(60) == STARTUP_FAILURE
            assert len(parent.events("worker started")) == jetface.server.workers.MOST_FAILED_STARTS
            assert {each["reason"] for each in parent.events("worker could not start and is started again")} == {
                "killed by SIGSEGV"
            }

    def test_pauses_grow_and_others_serve_on(self, tmp_path: Path) -> None:
        """A slot that cannot be filled does not end a service that has others."""
        worker = f"if slot: time.sleep(0.5); sys.exit(3)\n{GOES_ON}"
        with Parent(tmp_path, worker, pause_s=2) as parent:
            tried = parent.wait_for("worker could not start and is started again", 4)
            assert [each["pause_s"] for each in tried[:4]] == [1.0, 2.0, 2.0, 2.0]
            parent.process.terminate()
            assert parent.process.wait(30) == 0

    def test_one_that_stands_still_is_killed_and_replaced(self, tmp_path: Path) -> None:
        """It has served, and says nothing any more."""
        with Parent(tmp_path, "control.send(b'S'); time.sleep(60)", num_workers=1, timeout_s=0.4) as parent:
            (stuck, *_) = parent.wait_for("worker is stuck and is killed")
            (died, *_) = parent.wait_for("worker died and is replaced")
            assert (died["pid"], died["reason"]) == (stuck["pid"], "killed by SIGKILL")
            parent.wait_for("worker started", 2)

    def test_one_that_does_not_end_is_killed(self, tmp_path: Path) -> None:
        """The exit code is that of a stop all the same."""
        with Parent(tmp_path, f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{GOES_ON}", num_workers=1) as parent:
            parent.wait_for("worker started")
            time.sleep(0.5)
            parent.process.terminate()
            assert parent.process.wait(30) == 0
            assert len(parent.events("worker did not end in time and is killed")) <= 1

    def test_a_new_worker_that_does_not_start_leaves_the_old_one(self, tmp_path: Path) -> None:
        """SIGHUP with a configuration that no longer serves costs nothing."""
        (tmp_path / "good").touch()
        with Parent(tmp_path, f"if not os.path.exists({str(tmp_path / 'good')!r}): sys.exit(3)\n{GOES_ON}") as parent:
            parent.wait_for("worker started", 2)
            time.sleep(1)
            (tmp_path / "good").unlink()
            parent.process.send_signal(signal.SIGHUP)
            (failed,) = parent.wait_for("the new worker did not start: the old ones serve on")
            assert failed["slot"] == 0
            assert parent.events("worker died and is replaced") == []
            assert parent.process.poll() is None
