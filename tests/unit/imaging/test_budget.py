"""How many pixels may be decoded at once, and how many bytes are kept."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetface.errors import DeadlineExceededError, QueueFullError
from jetface.imaging.budget import SLOW_AFTER_S, Budget, ByteBudget, Share

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


MIB = 2**20


class Sender:
    """Somebody whose body grows; ended when it makes way."""

    def __init__(self, budget: ByteBudget) -> None:
        self.has_made_way = False
        self.share: Share = budget.share(self.make_way)

    def make_way(self) -> None:
        """Remember."""
        self.has_made_way = True

    def send(self, num_bytes: int, seconds: float = 30.0) -> asyncio.Task[None]:
        """Have bytes come."""
        return asyncio.create_task(self.share.grow(num_bytes, deadline=in_s(seconds)))


class TestBytes:
    """Shares that grow."""

    async def test_what_has_come_is_counted_and_what_is_short_is_not(self) -> None:
        budget = ByteBudget(10 * MIB)
        sender = Sender(budget)
        await sender.send(2**18)
        assert budget.held == 0
        await sender.send(1)
        await sender.send(MIB)
        assert budget.held == 2**18 + 1 + MIB
        sender.share.close()
        sender.share.close()
        assert budget.held == 0

    async def test_who_came_first_goes_on_first_and_others_wait(self) -> None:
        budget = ByteBudget(4 * MIB)
        whole, old, young = Sender(budget), Sender(budget), Sender(budget)
        await whole.send(3 * MIB)
        whole.share.complete()
        tasks = [young.send(2 * MIB), old.send(3 * MIB)]
        await turn()
        assert budget.num_waiting == 2
        assert not tasks[0].done()
        whole.share.close()
        await tasks[1]
        assert not tasks[0].done()
        old.share.close()
        await tasks[0]
        assert budget.held == 2 * MIB

    async def test_of_bodies_that_all_wait_for_the_rest_the_first_goes_on(self) -> None:
        budget = ByteBudget(4 * MIB)
        senders = [Sender(budget) for _ in range(4)]
        for sender in senders:
            await sender.send(MIB)
        done: list[int] = []

        async def send_rest(number: int) -> None:
            for _ in range(3):
                await senders[number].send(MIB)
                assert budget.held <= 4 * MIB + 3 * MIB  # by the rest of one
            senders[number].share.complete()
            done.append(number)
            await asyncio.sleep(0.01)
            senders[number].share.close()

        await asyncio.gather(*(send_rest(number) for number in (3, 1, 2, 0)))
        assert done[0] == 0
        assert budget.held == 0
        assert not any(sender.has_made_way for sender in senders)

    @pytest.mark.slow
    async def test_who_sends_slowly_makes_way_when_others_wait_and_only_then(self) -> None:
        budget = ByteBudget(4 * MIB + 2**14)
        drippers = [Sender(budget) for _ in range(4)]
        for dripper in drippers:
            await dripper.send(MIB)
        for _ in range(6):  # a kilobyte now and then is slow, too
            await asyncio.sleep(SLOW_AFTER_S / 4)
            for dripper in drippers[:2]:
                dripper.send(1000)
        assert not any(dripper.has_made_way for dripper in drippers)
        fast = Sender(budget)
        for _ in range(8):
            await fast.send(MIB // 2)
        fast.share.complete()
        assert all(dripper.has_made_way for dripper in drippers)
        with pytest.raises(QueueFullError):
            await drippers[0].send(MIB)
        assert budget.held == 4 * MIB

    @pytest.mark.slow
    async def test_what_is_whole_never_makes_way(self) -> None:
        budget = ByteBudget(MIB)
        whole, late = Sender(budget), Sender(budget)
        await whole.send(MIB)
        whole.share.complete()
        with pytest.raises(QueueFullError):
            await late.send(MIB, seconds=SLOW_AFTER_S + 1)
        assert not whole.has_made_way
        assert (budget.held, budget.num_waiting) == (MIB, 0)

    @pytest.mark.slow
    async def test_who_leaves_the_line_takes_nothing(self) -> None:
        budget = ByteBudget(MIB)
        first, second, third = Sender(budget), Sender(budget), Sender(budget)
        await first.send(MIB)
        first.share.complete()
        waiting, behind = second.send(MIB), third.send(MIB // 2)
        await turn()
        waiting.cancel()
        first.share.close()
        await behind
        second.share.close()
        assert budget.held == MIB // 2

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_in_any_order_everybody_is_served_or_refused(self, seed: int) -> None:
        chance = random.Random(seed)

        async def run() -> None:
            budget = ByteBudget(2 * MIB)

            async def send() -> None:
                sender = Sender(budget)
                try:
                    for _ in range(chance.randrange(1, 6)):
                        task = sender.send(chance.randrange(1, MIB))
                        if chance.random() < 0.1:
                            await asyncio.sleep(0)
                            task.cancel()
                        await task
                        await asyncio.sleep(chance.random() / 1000)
                    sender.share.complete()
                    await asyncio.sleep(chance.random() / 1000)
                except asyncio.CancelledError:
                    pass
                finally:
                    sender.share.close()

            await asyncio.wait_for(asyncio.gather(*(send() for _ in range(12))), 20)
            assert (budget.held, budget.num_waiting) == (0, 0)

        asyncio.run(run())
