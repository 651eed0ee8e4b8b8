"""Workers of one service: one answer for all, no series too many, none started in vain again and again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families
from typing_extensions import Self

import jetface.server.workers
from jetface.device.checks import STARTUP_FAILURE
from jetface.metrics import Metrics
from jetface.server.drain import Drain
from jetface.server.workers import Post, Sheet, Worker, share_of


class Counted:
    """A worker's metrics: one of each kind."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "Answered.", ["route"], registry=self.registry)
        self.waiting = Gauge("waiting", "In the queue.", registry=self.registry)
        self.seconds = Histogram("seconds", "Taken.", buckets=(0.1, 1), registry=self.registry)


@dataclass
class Team:
    """Posts of two workers, as a parent gives them."""

    sheets: list[Sheet]
    parents: dict[int, socket.socket]

    @asynccontextmanager
    async def worker(self, slot: int, registry: CollectorRegistry) -> AsyncIterator[Worker]:
        """A worker that serves."""
        self.parents[slot], control = socket.socketpair()
        sheets = tuple(sheet.fd for sheet in self.sheets)
        post = Post(slot=slot, control=control.detach(), listeners=(), sheets=sheets, beat_s=0.05)
        worker = Worker(post)
        with self.parents[slot]:
            async with worker.serving(registry, Drain(1)):
                yield worker


@pytest.fixture
def team() -> Iterator[Team]:
    sheets = [Sheet.new(f"sheet {number}") for number in range(3)]
    yield Team(sheets, {})
    for sheet in sheets:
        sheet.close()


def samples(exposition: bytes) -> dict[tuple[str, str, str], float]:
    """Values by name, worker and the other labels."""
    return {
        (sample.name, sample.labels.pop("worker"), ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


class TestMetrics:
    """One scrape tells of all."""

    async def test_any_worker_answers_for_all(self, team: Team) -> None:
        """Of every kind of metric, each worker's own figures under its number."""
        one, two = Counted(), Counted()
        two.requests.labels("/extract").inc(7)
        two.seconds.observe(0.5)
        async with team.worker(0, one.registry) as first, team.worker(1, two.registry):
            one.requests.labels("/extract").inc(3)
            one.waiting.set(5)
            seen = samples(first.exposition())
        assert seen["requests_total", "0", "/extract"] == 3
        assert seen["requests_total", "1", "/extract"] == 7
        assert seen["waiting", "0", ""] == 5
        assert seen["seconds_bucket", "1", "1.0"] == 1
        assert seen["seconds_bucket", "1", "0.1"] == 0
        assert seen["seconds_count", "0", ""] == 0

    async def test_the_service_s_own_metrics_come_through(self, team: Team) -> None:
        """All names and kinds of `Metrics`, those asked at each scrape included."""
        metrics = Metrics()
        metrics.watch(metrics.in_flight, lambda: 4)
        async with team.worker(0, metrics.registry) as worker:
            exposition = worker.exposition()
        assert samples(exposition)["jetface_requests_in_flight", "0", ""] == 4
        # The text format knows no `info`: it is a gauge of value 1.
        alone = {family.name: family.type for family in metrics.registry.collect() if family.type != "info"}
        together = {family.name: family.type for family in text_string_to_metric_families(exposition.decode())}
        assert alone.items() <= together.items()

    async def test_what_a_killed_worker_wrote_half_is_left_out(self, team: Team) -> None:
        """The others' figures are told all the same."""
        counted = Counted()
        team.sheets[1].write(b"# HELP waiting x\n# TYPE waiting gauge\nwaiting 9.0\n")
        os.ftruncate(team.sheets[1].fd, 30)
        async with team.worker(0, counted.registry) as first:
            seen = samples(first.exposition())
        assert ("waiting", "0", "") in seen
        assert ("waiting", "1", "") not in seen

    async def test_a_sheet_that_cannot_be_written_stops_nobody(self, team: Team, tmp_path: Path) -> None:
        """A worker serves without its figures being known to the others."""
        (tmp_path / "file").touch()
        os.dup2(file := os.open(tmp_path / "file", os.O_RDONLY), team.sheets[0].fd)
        os.close(file)
        async with team.worker(0, Counted().registry) as worker:
            assert ("waiting", "0", "") in samples(worker.exposition())

    @given(texts=st.lists(st.binary(max_size=300).map(lambda each: each.hex().encode()), min_size=1))
    def test_a_sheet_holds_what_was_written_last(self, texts: list[bytes]) -> None:
        sheet = Sheet.new("sheet")
        try:
            assert sheet.read() is None
            for text in texts:
                sheet.write(text)
                assert sheet.read() == text.decode()
            sheet.clear()
            assert sheet.read() is None
        finally:
            sheet.close()


class TestWorker:
    """What passes between a worker and its parent."""

    async def test_the_parent_hears_that_it_serves_and_that_its_loop_turns(self, team: Team) -> None:
        async with team.worker(0, Counted().registry):
            await asyncio.sleep(0.3)
            heard = team.parents[0].recv(100)
        assert heard[:1] == b"S"
        assert set(heard[1:]) == {ord(".")}
        assert len(heard) > 3

    async def test_it_ends_when_its_parent_has_gone(self, team: Team) -> None:
        """By SIGTERM, which drains."""
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        try:
            async with team.worker(0, Counted().registry):
                team.parents[0].close()
                await asyncio.wait_for(told.wait(), 5)
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


def test_a_post_is_one_word() -> None:
    post = Post(slot=1, control=5, listeners=(6, 7), sheets=(8, 9, 10), beat_s=0.5)
    assert Post.parse(str(post)) == post
    assert " " not in str(post)


@given(total=st.integers(0, 10**9), num_workers=st.integers(1, 64))
def test_shares_add_up_to_the_whole(total: int, num_workers: int) -> None:
    """And nobody gets nothing."""
    share = share_of(total, num_workers)
    assert share >= 1
    assert share * num_workers >= total
    assert (share - 1) * num_workers < max(total, 1)


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
