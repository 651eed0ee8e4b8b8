"""Workers of one service: one answer for all, no series too many, none started in vain again and again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

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
