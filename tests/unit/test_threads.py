"""Calls on threads that a caller can leave, and their way back to the loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from jetface.errors import DeadlineExceededError, ImageDecodeError, ModelStuckError, ShuttingDownError
from jetface.threads import SlowWork, Threads, short_turns


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Return one thread."""
    with Threads(1, "test") as pool:
        yield pool


def in_s(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def until(condition: threading.Event) -> None:
    await asyncio.get_running_loop().run_in_executor(None, condition.wait, 10)


class Count:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


class Busy:
    """Keeps a thread until it is told."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        self.may_end.wait(10)


async def test_a_result_is_returned_and_nothing_given_back(threads: Threads) -> None:
    given_back = Count()
    assert await threads.call(lambda: 7, deadline=in_s(), on_failure=given_back) == 7
    assert await threads.call(lambda: 8) == 8
    await asyncio.sleep(0.01)
    assert given_back.calls == 0


@pytest.mark.parametrize("error", [ImageDecodeError("no"), SystemExit(), KeyError()], ids=repr)
async def test_an_error_is_raised_and_given_back_once(threads: Threads, error: BaseException) -> None:
    given_back = Count()

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        await threads.call(fail, deadline=in_s(), on_failure=given_back)
    await asyncio.sleep(0.01)
    assert given_back.calls == 1
    assert await threads.call(lambda: 7) == 7


async def test_an_error_that_no_future_takes_is_told_all_the_same(threads: Threads) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.call(lambda: next(iter(())), deadline=in_s())


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "late"])
async def test_a_call_that_was_left_gives_back_when_it_has_ended(threads: Threads, is_cancelled: bool) -> None:
    """What it holds is in use until then."""
    busy, given_back = Busy(), Count()
    deadline = in_s() if is_cancelled else in_s(0.05)
    task = asyncio.create_task(threads.call(busy, deadline=deadline, on_failure=given_back))
    await until(busy.begun)
    if is_cancelled:
        task.cancel()
    with pytest.raises((asyncio.CancelledError, DeadlineExceededError)):
        await task
    await asyncio.sleep(0.02)
    assert given_back.calls == 0
    busy.may_end.set()
    while not given_back.calls:  # noqa: ASYNC110 - it is called on this loop
        await asyncio.sleep(0.001)
    assert given_back.calls == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_a_caller_that_is_cancelled_with_its_answer_gives_back_too(threads: Threads, fails: bool) -> None:
    """The result came in the turn of the loop in which the caller was cancelled."""
    given_back = Count()

    def work() -> None:
        if fails:
            raise KeyError

    task = asyncio.create_task(threads.call(work, deadline=in_s(), on_failure=given_back))
    next_call = Busy()
    behind = asyncio.create_task(threads.call(next_call))
    await asyncio.sleep(0)
    # The thread has told of the first call by then. The loop stands still: the result waits for its next turn.
    assert next_call.begun.wait(10)
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert given_back.calls == 1
    next_call.may_end.set()
    await behind


async def test_a_call_that_has_not_begun_never_does(threads: Threads) -> None:
    busy, given_back, called = Busy(), Count(), Count()
    first = asyncio.create_task(threads.call(busy))
    task = asyncio.create_task(threads.call(called, deadline=in_s(), on_failure=given_back))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert given_back.calls == 1
    busy.may_end.set()
    await first
    assert await threads.call(lambda: 7) == 7
    assert called.calls == 0


async def test_closing_refuses_what_has_not_begun_and_lets_the_rest_end(threads: Threads) -> None:
    busy, given_back, called = Busy(), Count(), Count()
    first = asyncio.create_task(threads.call(busy))
    waiting = asyncio.create_task(threads.call(called, deadline=in_s(), on_failure=given_back))
    await until(busy.begun)
    threads.close()
    with pytest.raises(ShuttingDownError):
        await waiting
    busy.may_end.set()
    await first
    assert (called.calls, given_back.calls) == (0, 1)


async def test_a_pool_that_is_closed_says_so(threads: Threads) -> None:
    threads.close()
    given_back = Count()
    with pytest.raises(ShuttingDownError):
        await threads.call(lambda: 7, deadline=in_s(), on_failure=given_back)
    assert given_back.calls == 1
    with pytest.raises(ShuttingDownError):
        await threads.call(lambda: 7)


async def test_a_deadline_in_the_past_calls_nothing(threads: Threads) -> None:
    called, given_back = Count(), Count()
    with pytest.raises(DeadlineExceededError):
        await threads.call(called, deadline=in_s(-1), on_failure=given_back)
    await threads.call(lambda: None)
    assert (called.calls, given_back.calls) == (0, 1)


def test_a_loop_that_is_gone_is_not_asked(threads: Threads) -> None:
    """A decode may outlive the service; the pool serves another loop then."""
    busy = Busy()

    async def leave() -> None:
        with pytest.raises(DeadlineExceededError):
            await threads.call(busy, deadline=in_s(0.01))
        busy.begun.wait(10)

    async def ask() -> int:
        return await threads.call(lambda: 7)

    asyncio.run(leave())
    busy.may_end.set()
    assert asyncio.run(ask()) == 7


async def test_many_calls_run_on_no_more_threads_than_there_may_be() -> None:
    with Threads(3, "few") as few:
        names = await asyncio.gather(*(few.call(lambda: threading.current_thread().name) for _ in range(200)))
    assert set(names) <= {"few_0", "few_1", "few_2"}


def test_turns_are_short_where_wanted_and_as_before_afterwards() -> None:
    usual_s = sys.getswitchinterval()
    with short_turns(are_wanted=False):
        assert sys.getswitchinterval() == usual_s
    with short_turns(are_wanted=True):
        assert sys.getswitchinterval() < usual_s
    assert sys.getswitchinterval() == usual_s


class TestSlowWork:
    """Loads and what is like them."""

    async def test_so_many_run_at_a_time_and_others_wait(self) -> None:
        place = SlowWork("opening", most=2, timeout_s=30)
        works = [Busy() for _ in range(3)]
        begun: list[int] = []
        calls = [
            asyncio.create_task(place.call(work, model=str(index), begun=partial(begun.append, index)))
            for index, work in enumerate(works)
        ]
        await until(works[0].begun)
        await until(works[1].begun)
        await asyncio.sleep(0.02)
        assert begun == [0, 1]
        works[1].may_end.set()
        await until(works[2].begun)
        for work in works:
            work.may_end.set()
        await asyncio.gather(*calls)

    async def test_what_it_returns_and_raises_arrives(self) -> None:
        place = SlowWork("opening", most=1, timeout_s=30)

        def fail() -> None:
            raise ImageDecodeError("No.")

        def stop() -> None:
            raise StopIteration

        assert await place.call(lambda: 7, model="m") == 7
        with pytest.raises(ImageDecodeError):
            await place.call(fail, model="m")
        with pytest.raises(RuntimeError, match="StopIteration"):
            await place.call(stop, model="m")

    async def test_what_hangs_is_given_up_and_its_turn_goes_on(self) -> None:
        """The same model is refused for as long as its thread is held; another one is not."""
        place = SlowWork("opening", most=1, timeout_s=0.1)
        stuck = Busy()
        try:
            with pytest.raises(ModelStuckError, match=r"opening of model m has taken more than 0\.1 s"):
                await place.call(stuck, model="m")
            assert await place.call(lambda: 7, model="other") == 7
            with pytest.raises(ModelStuckError, match="hangs"):
                await place.call(lambda: 7, model="m")
        finally:
            stuck.may_end.set()
        for _ in range(200):
            with contextlib.suppress(ModelStuckError):
                assert await place.call(lambda: 8, model="m") == 8
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("it is refused though nothing hangs any more")

    async def test_a_caller_may_go(self) -> None:
        place = SlowWork("opening", most=1, timeout_s=30)
        work = Busy()
        call = asyncio.create_task(place.call(work, model="m"))
        await until(work.begun)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        work.may_end.set()

    async def test_a_closed_place_begins_nothing(self) -> None:
        place = SlowWork("opening", most=1, timeout_s=30)
        place.close()
        with pytest.raises(ShuttingDownError):
            await place.call(lambda: 7, model="m")
