"""A batcher's work, as metrics."""

from __future__ import annotations

import asyncio

import pytest

from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.errors import DeadlineExceededError, InferenceError
from jetface.metrics import Metrics


def run(items: list[int]) -> list[int]:
    """Fail on item 13."""
    if 13 in items:
        raise ValueError("poison")
    return items


async def test_waits_runs_failures_and_drops_reach_the_metrics() -> None:
    """Every metric of a queue carries the model's name."""
    metrics = Metrics()
    lane: Lane[int, int] = Lane(run=lambda items: run(list(items)))
    batcher = Batcher("m", [lane], max_batch=8, max_waiting=8, metrics=metrics)
    now = asyncio.get_running_loop().time()
    await batcher.submit([1, 2], group=0, deadline=now + 5)
    with pytest.raises(InferenceError):
        await batcher.submit([13], group=0, deadline=now + 5)
    with pytest.raises(DeadlineExceededError):
        await batcher.submit([1, 2, 3], group=0, deadline=now)
    await batcher.close()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"model": "m", **labels})

    assert value("jetface_queue_seconds_count") == 3
    assert value("jetface_batch_size_count") == value("jetface_run_seconds_count") == 1
    assert value("jetface_batch_size_sum") == 2
    assert value("jetface_run_failures_total") == 1
    assert value("jetface_dropped_items_total", reason="deadline") == 3
    assert value("jetface_dropped_items_total", reason="cancelled") == 0
