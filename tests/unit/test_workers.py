"""Workers of one service: one answer for all, no series too many, nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import Metrics
from app.workers import NoFreeSlotError, Workers, folder_of_siblings, share_of


class Counted:
    """A worker's metrics: one of each kind."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "Answered.", ["route"], registry=self.registry)
        self.waiting = Gauge("waiting", "In the queue.", registry=self.registry)
        self.seconds = Histogram("seconds", "Taken.", buckets=(0.1, 1), registry=self.registry)


def samples(exposition: bytes) -> dict[tuple[str, str, str], float]:
    """Values by name, worker and the other labels."""
    return {
        (sample.name, sample.labels.pop("worker"), ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


async def test_any_worker_answers_for_all(tmp_path: Path) -> None:
    """Of every kind of metric, each worker's own figures under its number."""
    one, two = Counted(), Counted()
    two.requests.labels("/extract").inc(7)
    two.seconds.observe(0.5)
    async with Workers(tmp_path / "w", 2, one.registry) as first, Workers(tmp_path / "w", 2, two.registry):
        one.requests.labels("/extract").inc(3)
        one.waiting.set(5)
        seen = samples(first.exposition())
    assert seen["requests_total", "0", "/extract"] == 3
    assert seen["requests_total", "1", "/extract"] == 7
    assert seen["waiting", "0", ""] == 5
    assert seen["seconds_bucket", "1", "1.0"] == 1
    assert seen["seconds_bucket", "1", "0.1"] == 0
    assert seen["seconds_count", "0", ""] == 0


async def test_the_service_s_own_metrics_come_through(tmp_path: Path) -> None:
    """All names and kinds of `Metrics`, those asked at each scrape included."""
    metrics = Metrics()
    metrics.watch(metrics.in_flight, lambda: 4)
    async with Workers(tmp_path / "w", 2, metrics.registry) as workers:
        exposition = workers.exposition()
    assert samples(exposition)["jetface_requests_in_flight", "0", ""] == 4
    # The text format knows no `info`: it is a gauge of value 1.
    alone = {family.name: family.type for family in metrics.registry.collect() if family.type != "info"}
    together = {family.name: family.type for family in text_string_to_metric_families(exposition.decode())}
    assert alone.items() <= together.items()


async def test_a_worker_takes_the_place_of_one_that_died(tmp_path: Path) -> None:
    """Its lock ends with it; what it left is overwritten."""
    counted = Counted()
    counted.waiting.set(1)
    folder = tmp_path / "w"
    async with Workers(folder, 2, counted.registry) as first:
        (folder / "1.prom").write_text("# HELP waiting x\n# TYPE waiting gauge\nwaiting 9.0\n")
        assert samples(first.exposition())["waiting", "1", ""] == 9
        async with Workers(folder, 2, counted.registry):
            assert samples(first.exposition())["waiting", "1", ""] == 1
        assert ("waiting", "1", "") not in samples(first.exposition())


async def test_there_are_no_more_than_there_are_slots(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with Workers(tmp_path / "w", 1, registry):
        with pytest.raises(NoFreeSlotError):
            await Workers(tmp_path / "w", 1, registry).__aenter__()


async def test_the_last_one_takes_the_folder_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    async with Workers(folder, 2, CollectorRegistry()):
        async with Workers(folder, 2, CollectorRegistry()):
            assert folder.stat().st_mode & 0o077 == 0
        assert folder.exists()
    assert not folder.exists()


async def test_a_folder_that_somebody_else_made_is_not_used(tmp_path: Path) -> None:
    """The name can be guessed; what lies there could lead anywhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "w").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        await Workers(tmp_path / "w", 2, CollectorRegistry()).__aenter__()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_siblings_have_one_folder_and_others_have_another() -> None:
    assert folder_of_siblings(18080) == folder_of_siblings(18080) != folder_of_siblings(18081)
    assert str(os.getppid()) in folder_of_siblings(18080).name


@given(total=st.integers(0, 10**9), num_workers=st.integers(1, 64))
def test_shares_add_up_to_the_whole(total: int, num_workers: int) -> None:
    """And nobody gets nothing."""
    share = share_of(total, num_workers)
    assert share >= 1
    assert share * num_workers >= total
    assert (share - 1) * num_workers < max(total, 1)
