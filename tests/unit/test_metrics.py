"""Metrics are there before the first event, and say one thing at a time."""

from __future__ import annotations

import pytest

from jetface import __commit__, __version__
from jetface.metrics import Metrics
from jetface.server.encoding import STATUS


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize("code", sorted({error.code for error in STATUS}))
def test_every_refusal_is_zero_before_it_happens(code: str) -> None:
    assert value(Metrics(), "jetface_refusals_total", code=code) == 0


@pytest.mark.parametrize("status", ["ok", "failed"])
def test_pictures_are_zero_before_the_first(status: str) -> None:
    assert value(Metrics(), "jetface_pictures_total", status=status) == 0


def test_the_version_is_there() -> None:
    assert value(Metrics(), "jetface_build_info", version=__version__, commit=__commit__) == 1


def test_the_process_tells_its_memory() -> None:
    resident = value(Metrics(), "process_resident_memory_bytes")
    assert resident is not None
    assert resident > 1_000_000


def test_a_model_runs_on_one_backend_at_a_time() -> None:
    metrics = Metrics()
    for backend in ("onnxruntime-cpu", "tensorrt", "tensorrt"):
        metrics.set_backend("det_500m", backend)
    assert value(metrics, "jetface_model_backend", model="det_500m", backend="tensorrt") == 1
    assert value(metrics, "jetface_model_backend", model="det_500m", backend="onnxruntime-cpu") is None


def test_a_watched_gauge_asks_at_each_scrape() -> None:
    metrics = Metrics()
    readings = iter([1.0, 2.0])
    metrics.watch(metrics.queue_length.labels("det_500m"), lambda: next(readings))
    assert [value(metrics, "jetface_queue_length", model="det_500m") for _ in range(2)] == [1.0, 2.0]


def test_two_services_of_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.pictures.labels("ok").inc()
    assert value(other, "jetface_pictures_total", status="ok") == 0
