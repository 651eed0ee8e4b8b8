"""Many deadlines on one timer."""

from __future__ import annotations

import asyncio
import gc
import weakref

from hypothesis import given, settings
from hypothesis import strategies as st

from jetface.threads import Deadlines


class StillLoop(asyncio.SelectorEventLoop):
    """Its clock stands until it is set."""

    now = 1000.0

    def time(self) -> float:
        """Return what was set."""
        return self.now

    def turn(self) -> None:
        """Call what is due."""
        for _ in range(2):
            self.call_soon(self.stop)
            self.run_forever()


class Waiter:
    """Waits for nothing in particular."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[str] = loop.create_future()


def answer(waiter: Waiter) -> None:
    """Tell a waiter that it is late, once."""
    waiter.future.set_result("late")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), max_size=30),
    st.lists(st.integers(1, 6), max_size=8),
)
def test_each_waiter_is_told_when_it_is_late_and_not_before(waits: list[tuple[int, int]], steps: list[int]) -> None:
    """A waiter is known by when it is late, and when it would be done."""
    loop = StillLoop()
    try:
        deadlines = Deadlines(answer)
        begun = loop.now
        waiters = [Waiter(loop) for _ in waits]
        for waiter, (late_at, _) in zip(waiters, waits, strict=True):
            deadlines.add(begun + late_at, waiter)
        for step in [*steps, 50]:
            loop.now += step
            loop.turn()
            for waiter, (late_at, done_at) in zip(waiters, waits, strict=True):
                is_late = loop.now >= begun + late_at
                assert waiter.future.done() or not is_late
                if waiter.future.done():
                    assert is_late or waiter.future.result() == "done"
                elif loop.now >= begun + done_at:
                    waiter.future.set_result("done")
    finally:
        loop.close()


async def test_an_earlier_deadline_that_comes_later_is_kept() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(answer)
    far, near = Waiter(loop), Waiter(loop)
    deadlines.add(loop.time() + 60, far)
    deadlines.add(loop.time() + 0.01, near)
    assert await asyncio.wait_for(near.future, 10) == "late"
    assert not far.future.done()


async def test_nobody_is_held() -> None:
    """Neither those who are done nor those who have left without a word; what stays of them goes with the first."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(answer)
    first = Waiter(loop)
    deadlines.add(loop.time() + 0.05, first)
    held = []
    for number in range(100):
        waiter = Waiter(loop)
        deadlines.add(loop.time() + 60 + number, waiter)
        if number % 2:
            waiter.future.set_result("done")
        held.append(weakref.ref(waiter))
    del waiter
    gc.collect()
    assert [reference() for reference in held] == [None] * 100
    await asyncio.wait_for(first.future, 10)
    assert not deadlines._waiters
