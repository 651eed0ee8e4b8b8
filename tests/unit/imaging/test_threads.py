"""Calls on threads that a caller can leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import DeadlineExceededError, ImageDecodeError, ShuttingDownError
from app.imaging.threads import call_on_thread


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """Return one thread."""
    with ThreadPoolExecutor(1) as pool:
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


async def test_a_result_is_returned_and_nothing_given_back(executor: ThreadPoolExecutor) -> None:
    given_back = Count()
    assert await call_on_thread(executor, lambda: 7, deadline=in_s(), on_failure=given_back) == 7
    await asyncio.sleep(0.01)
    assert given_back.calls == 0


async def test_an_error_is_raised_and_given_back_once(executor: ThreadPoolExecutor) -> None:
    given_back = Count()

    def fail() -> None:
        raise ImageDecodeError("no")

    with pytest.raises(ImageDecodeError, match="no"):
        await call_on_thread(executor, fail, deadline=in_s(), on_failure=given_back)
    await asyncio.sleep(0.01)
    assert given_back.calls == 1


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "late"])
async def test_a_call_that_was_left_gives_back_when_it_has_ended(
    executor: ThreadPoolExecutor, is_cancelled: bool
) -> None:
    """What it holds is in use until then."""
    begun, may_end, given_back = threading.Event(), threading.Event(), Count()

    def work() -> None:
        begun.set()
        may_end.wait(10)

    deadline = in_s() if is_cancelled else in_s(0.05)
    task = asyncio.create_task(call_on_thread(executor, work, deadline=deadline, on_failure=given_back))
    await until(begun)
    if is_cancelled:
        task.cancel()
    with pytest.raises((asyncio.CancelledError, DeadlineExceededError)):
        await task
    await asyncio.sleep(0.02)
    assert given_back.calls == 0
    may_end.set()
    while not given_back.calls:  # noqa: ASYNC110 - it is called on this loop
        await asyncio.sleep(0.001)
    assert given_back.calls == 1


async def test_a_call_that_has_not_begun_never_does(executor: ThreadPoolExecutor) -> None:
    may_end, given_back, called = threading.Event(), Count(), Count()
    executor.submit(may_end.wait, 10)
    task = asyncio.create_task(call_on_thread(executor, called, deadline=in_s(), on_failure=given_back))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.01)
    assert given_back.calls == 1
    may_end.set()
    executor.shutdown(wait=True)
    assert called.calls == 0


async def test_an_executor_that_is_closed_says_so(executor: ThreadPoolExecutor) -> None:
    executor.shutdown()
    given_back = Count()
    with pytest.raises(ShuttingDownError):
        await call_on_thread(executor, lambda: 7, deadline=in_s(), on_failure=given_back)
    assert given_back.calls == 1
    with pytest.raises(ShuttingDownError):
        await call_on_thread(executor, lambda: 7, deadline=in_s())


async def test_a_deadline_in_the_past_calls_nothing(executor: ThreadPoolExecutor) -> None:
    called, given_back = Count(), Count()
    with pytest.raises(DeadlineExceededError):
        await call_on_thread(executor, called, deadline=in_s(-1), on_failure=given_back)
    executor.shutdown(wait=True)
    assert (called.calls, given_back.calls) == (0, 1)


def test_a_loop_that_is_gone_is_not_asked(executor: ThreadPoolExecutor) -> None:
    """A decode may outlive the service."""
    may_end = threading.Event()

    async def leave() -> None:
        with pytest.raises(DeadlineExceededError):
            await call_on_thread(executor, lambda: may_end.wait(10), deadline=in_s(0.01))

    asyncio.run(leave())
    may_end.set()
    executor.shutdown(wait=True)
