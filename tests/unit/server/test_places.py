"""How many requests are served at once, and what one that is refused is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from jetface.errors import ModelLoadingError, QueueFullError, ServiceError, ShuttingDownError
from jetface.server.limits import Places


class Sender:
    """A request whose body arrives, until it is ended."""

    def __init__(self, stalls_at: float = float("inf"), held_bytes: int = 0) -> None:
        self.stalls_at = stalls_at
        self.held_bytes = held_bytes
        self.cause: ServiceError | None = None

    def end(self, cause: ServiceError) -> None:
        self.cause = cause


@contextlib.contextmanager
def taken(places: Places) -> Iterator[None]:
    """Hold a place."""
    sender = Sender()
    with places.held_by(sender):
        places.take(sender)
        yield


async def test_no_place_is_free_when_all_are_taken() -> None:
    places = Places(1)
    with taken(places):
        assert places.num_taken == 1
        with pytest.raises(QueueFullError) as refused:
            places.check()
    assert refused.value.retry_after_s == 1.0
    places.check()


async def test_retry_after_is_how_long_those_in_flight_will_take() -> None:
    """Four requests that shared 0.2 s took 0.05 s each: four more take 0.2 s."""
    places = Places(4)

    async def serve() -> None:
        with taken(places):
            await asyncio.sleep(0.2)

    await asyncio.gather(*(serve() for _ in range(4)))
    assert places.wait_s == 0
    with taken(places), taken(places):
        assert 0.05 < places.wait_s < 0.4


async def test_nobody_is_told_to_stay_away_longer_than_the_limit() -> None:
    places = Places(1, longest_wait_s=0.01)
    with taken(places):
        await asyncio.sleep(0.05)
    with taken(places):
        assert places.wait_s == 0.01


async def test_abandoning_nothing_returns_at_once() -> None:
    places = Places(1)
    await asyncio.wait_for(places.abandon(), 1)
    assert places.num_taken == 0


async def test_those_who_send_take_no_place_until_all_is_there() -> None:
    places = Places(1, most_received=3)
    first, second = Sender(), Sender()
    with places.held_by(first), places.held_by(second):
        assert (places.num_received, places.num_taken) == (2, 0)
        places.check()
        places.take(second)
        assert (places.num_received, places.num_taken) == (1, 1)
        with pytest.raises(QueueFullError):
            places.take(first)
        places.take(second)
        assert places.num_taken == 1
    assert (places.num_received, places.num_taken) == (0, 0)


async def test_the_slowest_makes_way_when_there_is_no_room_to_receive() -> None:
    places = Places(1, most_received=2)
    slow, slower, new = Sender(10), Sender(5), Sender(20)
    with places.held_by(slow), places.held_by(slower), places.held_by(new):
        assert isinstance(slower.cause, QueueFullError)
        assert (slow.cause, new.cause) == (None, None)
        assert places.num_received == 2


async def test_the_slowest_makes_way_each_time() -> None:
    """Those found slow the last time may have sent more since, or have gone."""
    places = Places(1, most_received=50)
    senders = [Sender(float(number)) for number in range(50)]
    with contextlib.ExitStack() as stack:
        for sender in senders:
            stack.enter_context(places.held_by(sender))
        stack.enter_context(places.held_by(Sender(100.0)))
        assert senders[0].cause is not None
        senders[1].stalls_at = 200.0
        for number in range(2, 49):
            stack.enter_context(places.held_by(Sender(100.0)))
            assert senders[number].cause is not None
            assert senders[number + 1].cause is None
        assert senders[1].cause is None
        assert places.num_received == 50


async def test_nobody_makes_way_whose_client_is_not_waited_for() -> None:
    places = Places(1, most_received=1)
    sender = Sender()
    with places.held_by(sender), pytest.raises(QueueFullError), places.held_by(Sender()):
        raise AssertionError("there was no room")
    assert (sender.cause, places.num_received) == (None, 0)


async def test_those_who_send_are_given_up_with_those_who_are_served() -> None:
    places = Places(1)
    sender, served = Sender(), Sender()
    with places.held_by(sender), places.held_by(served):
        places.take(served)
        abandoned = asyncio.create_task(places.abandon())
        await asyncio.sleep(0)
        causes = [each.cause.code for each in (sender, served) if each.cause is not None]
        assert causes == ["shutting_down"] * 2
        assert not abandoned.done()
    await abandoned


REFUSAL = ModelLoadingError("As many wait as may.", retry_after_s=1)


class Waiter(Sender):
    """A request that waits for a model until `may_go_on`, and then is served until `may_end`."""

    def __init__(self, places: Places, held_bytes: int = 0) -> None:
        super().__init__(held_bytes=held_bytes)
        self.may_go_on, self.may_end = asyncio.Event(), asyncio.Event()
        self.goes_on = False
        self._places = places

    async def serve(self) -> None:
        with self._places.held_by(self):
            self._places.take(self)
            async with self._places.step_aside(self, REFUSAL):
                await self.may_go_on.wait()
            self.goes_on = True
            await self.may_end.wait()


async def started(*waiters: Waiter) -> list[asyncio.Task[None]]:
    """Let each come as far as it can."""
    tasks = [asyncio.create_task(waiter.serve()) for waiter in waiters]
    await settled()
    return tasks


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_waits_for_a_model_takes_no_place_and_comes_back_in_turn() -> None:
    places = Places(2)
    waiters = [Waiter(places), Waiter(places)]
    tasks = await started(*waiters)
    assert (places.num_taken, places.num_aside) == (0, 2)
    with taken(places), taken(places):
        for waiter in waiters:
            waiter.may_go_on.set()
        await settled()
        assert (places.num_taken, places.num_aside) == (2, 2)
        assert not any(waiter.goes_on for waiter in waiters)
    await settled()
    assert (places.num_taken, places.num_aside) == (2, 0)
    for waiter in waiters:
        assert waiter.goes_on
        waiter.may_end.set()
    await asyncio.gather(*tasks)
    assert (places.num_taken, places.num_aside) == (0, 0)


async def test_as_many_are_aside_as_there_are_places() -> None:
    places = Places(2)
    tasks = await started(*(Waiter(places) for _ in range(3)))
    (refused,) = [task for task in tasks if task.done()]
    with pytest.raises(ModelLoadingError):
        refused.result()
    assert (places.num_taken, places.num_aside) == (0, 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (places.num_taken, places.num_aside) == (0, 0)


async def test_large_bodies_are_aside_only_as_far_as_they_leave_others_some_of_the_budget() -> None:
    places = Places(8, most_aside_bytes=10)
    tasks = await started(Waiter(places, 20), Waiter(places, 0), Waiter(places, 1))
    assert [task.done() for task in tasks] == [False, True, True]
    assert places.num_aside == 1
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_that_ends_while_it_waits_for_its_place_is_passed_over() -> None:
    places = Places(1)
    gone, other = Waiter(places), Waiter(places)
    (first,) = await started(gone)
    with taken(places):
        gone.may_go_on.set()
        await settled()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert (places.num_taken, places.num_aside) == (0, 0)
    (second,) = await started(other)
    other.may_go_on.set()
    other.may_end.set()
    await second
    assert other.goes_on


async def test_those_who_are_aside_are_given_up_with_the_others() -> None:
    places = Places(1)
    waiter = Waiter(places)
    (task,) = await started(waiter)
    abandoned = asyncio.create_task(places.abandon())
    await settled()
    assert isinstance(waiter.cause, ShuttingDownError)
    assert not abandoned.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await abandoned
