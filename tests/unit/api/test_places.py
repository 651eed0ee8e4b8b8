"""How many requests are served at once, and what one that is refused is told."""

from __future__ import annotations

import asyncio

import pytest

from app.api.places import Places
from app.errors import QueueFullError


async def nap(delay_s: float = 0.0) -> None:
    await asyncio.sleep(delay_s)


async def test_no_place_is_free_when_all_are_taken() -> None:
    places = Places(1)
    task = asyncio.create_task(nap())
    with places.taken_by(task.cancel):
        assert places.num_taken == 1
        with pytest.raises(QueueFullError) as refused:
            places.check()
    assert refused.value.retry_after_s == 1.0
    places.check()
    await task


async def test_retry_after_is_how_long_those_in_flight_will_take() -> None:
    """Four requests that shared 0.2 s took 0.05 s each: four more take 0.2 s."""
    places = Places(4)
    tasks = [asyncio.create_task(nap(0.2)) for _ in range(4)]

    async def serve(task: asyncio.Task[None]) -> None:
        with places.taken_by(task.cancel):
            await task

    await asyncio.gather(*map(serve, tasks))
    assert places.wait_s == 0
    first, second = asyncio.create_task(nap()), asyncio.create_task(nap())
    with places.taken_by(first.cancel), places.taken_by(second.cancel):
        assert 0.05 < places.wait_s < 0.4
    await asyncio.gather(first, second)


async def test_nobody_is_told_to_stay_away_longer_than_the_limit() -> None:
    places = Places(1, longest_wait_s=0.01)
    task = asyncio.create_task(nap(0.05))
    with places.taken_by(task.cancel):
        await task
    with places.taken_by(task.cancel):
        assert places.wait_s == 0.01


async def test_abandoning_nothing_returns_at_once() -> None:
    await Places(1).abandon()
