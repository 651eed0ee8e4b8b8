"""How many pixels may be decoded at once."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import DeadlineExceededError
from app.imaging.budget import Budget

SOON_S = 0.02


def in_s(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def turn() -> None:
    """Let everybody run who can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_fits_is_had_at_once() -> None:
    budget = Budget(10)
    await budget.acquire(6, deadline=in_s())
    await budget.acquire(4, deadline=in_s())
    assert budget.held == 10
    budget.release(10)
    assert budget.held == 0


async def test_the_first_to_come_is_the_first_served() -> None:
    """A large picture is not starved by small ones behind it, though they would fit."""
    budget = Budget(10)
    await budget.acquire(5, deadline=in_s())
    order: list[int] = []

    async def take(pixels: int) -> None:
        await budget.acquire(pixels, deadline=in_s())
        order.append(pixels)

    tasks = [asyncio.create_task(take(pixels)) for pixels in (9, 1, 2)]
    await turn()
    assert order == []
    assert budget.num_waiting == 3
    budget.release(5)
    await turn()
    assert order == [9, 1]
    budget.release(9)
    await asyncio.gather(*tasks)
    assert order == [9, 1, 2]
    assert budget.held == 3


async def test_more_than_there_ever_will_be_is_an_error() -> None:
    with pytest.raises(ValueError, match="exceed"):
        await Budget(10).acquire(11, deadline=in_s())


async def test_a_deadline_ends_the_wait_and_lets_the_next_pass() -> None:
    budget = Budget(10)
    await budget.acquire(8, deadline=in_s())
    late = asyncio.create_task(budget.acquire(5, deadline=in_s(SOON_S)))
    small = asyncio.create_task(budget.acquire(2, deadline=in_s()))
    with pytest.raises(DeadlineExceededError):
        await late
    await small
    assert budget.held == 10


async def test_a_deadline_in_the_past_takes_nothing() -> None:
    budget = Budget(10)
    with pytest.raises(DeadlineExceededError):
        await budget.acquire(1, deadline=in_s(-1))
    assert budget.held == 0


async def test_a_cancelled_waiter_lets_the_next_pass() -> None:
    budget = Budget(10)
    await budget.acquire(8, deadline=in_s())
    large = asyncio.create_task(budget.acquire(5, deadline=in_s()))
    small = asyncio.create_task(budget.acquire(2, deadline=in_s()))
    await turn()
    large.cancel()
    await small
    assert (budget.held, budget.num_waiting) == (10, 0)


async def test_cancelled_in_the_very_turn_of_the_grant_gives_back() -> None:
    budget = Budget(10)
    await budget.acquire(8, deadline=in_s())
    waiter = asyncio.create_task(budget.acquire(5, deadline=in_s()))
    await turn()
    budget.release(8)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert budget.held == 0


async def test_cancelled_in_the_very_turn_of_the_deadline_takes_nothing() -> None:
    budget = Budget(10)
    await budget.acquire(8, deadline=in_s())
    loop = asyncio.get_running_loop()
    deadline = in_s(SOON_S)
    waiter = asyncio.create_task(budget.acquire(5, deadline=deadline))
    await turn()
    loop.call_at(deadline, waiter.cancel)
    with pytest.raises((asyncio.CancelledError, DeadlineExceededError)):
        await waiter
    assert budget.held == 8


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_under_chaos_it_never_exceeds_and_ends_empty(seed: int) -> None:
    """Random sizes, cancellations and deadlines: everybody ends, nothing is lost."""
    choose = random.Random(seed)

    async def use(budget: Budget) -> None:
        pixels = choose.randint(1, 10)
        await budget.acquire(pixels, deadline=in_s(choose.choice([0.0, 0.001, 0.002, 1.0])))
        assert budget.held <= budget.capacity
        try:
            await asyncio.sleep(choose.choice([0, 0, 0.001]))
        finally:
            budget.release(pixels)

    async def run() -> None:
        budget = Budget(10)
        tasks = [asyncio.create_task(use(budget)) for _ in range(30)]
        for task in choose.sample(tasks, 10):
            await asyncio.sleep(choose.choice([0, 0, 0.001]))
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        wrong = [each for each in ended if not isinstance(each, None | asyncio.CancelledError | DeadlineExceededError)]
        assert wrong == []
        assert (budget.held, budget.num_waiting) == (0, 0)

    asyncio.run(run())
