"""Lanes that take over from others while callers are served: nothing is lost, nothing is answered twice."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence

import pytest
import structlog.testing

from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.errors import InferenceError, ShuttingDownError
from jetface.metrics import Metrics

FAR_S = 60.0


class NamedLane:
    """Answers each item with its own name; keeps books on its life, and can be held."""

    def __init__(self, name: str, *, fault: Exception | None = None, run_s: float = 0.0) -> None:
        self.name = name
        self.fault = fault
        self.run_s = run_s
        self.may_start, self.may_run = threading.Event(), threading.Event()
        self.may_start.set()
        self.may_run.set()
        self.events: list[str] = []
        self.threads: set[int] = set()

    def lane(self) -> Lane[int, tuple[str, int]]:
        return Lane(run=self.run, close=self.close, start=self.start)

    def start(self) -> None:
        assert self.may_start.wait(30)
        self._note("start")
        if self.fault:
            raise self.fault

    def run(self, items: Sequence[int]) -> list[tuple[str, int]]:
        assert self.may_run.wait(30)
        time.sleep(self.run_s)
        self._note("run")
        return [(self.name, item) for item in items]

    def close(self) -> None:
        self._note("close")

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())


def batcher_of(*lanes: NamedLane, max_batch: int = 2) -> Batcher[int, tuple[str, int]]:
    return Batcher(
        "swap",
        [lane.lane() for lane in lanes],
        max_batch=max_batch,
        max_waiting=1000,
        metrics=Metrics(),
        probe_items=[0],
    )


async def ask(batcher: Batcher[int, tuple[str, int]], *items: int) -> list[tuple[str, int]]:
    loop = asyncio.get_running_loop()
    return (await batcher.submit(items, group=object(), deadline=loop.time() + FAR_S)).results


async def until(what: str, lane: NamedLane) -> None:
    while what not in lane.events:  # noqa: ASYNC110 - another thread writes them
        await asyncio.sleep(0.001)


async def until_running(batcher: Batcher[int, tuple[str, int]], num_runs: int) -> None:
    while batcher.running < num_runs:  # noqa: ASYNC110 - lanes take on threads of their own
        await asyncio.sleep(0.001)


async def test_a_lane_starts_on_the_thread_it_runs_and_closes_on() -> None:
    lane = NamedLane("only")
    batcher = batcher_of(lane)
    await batcher.start()
    assert await ask(batcher, 1) == [("only", 1)]
    await batcher.close()
    assert lane.events == ["start", "run", "close"]
    assert len(lane.threads) == 1


async def test_what_is_submitted_while_a_lane_starts_waits_for_it() -> None:
    lane = NamedLane("only")
    lane.may_start.clear()
    batcher = batcher_of(lane)
    call = asyncio.create_task(ask(batcher, 1, 2, 3))
    await asyncio.sleep(0.01)
    assert (batcher.waiting, batcher.running) == (3, 0)
    lane.may_start.set()
    assert await call == [("only", 1), ("only", 2), ("only", 3)]
    await batcher.close()


async def test_a_lane_that_cannot_start_is_told_and_closed() -> None:
    lane = NamedLane("only", fault=InferenceError("No memory."))
    batcher = batcher_of(lane)
    with pytest.raises(InferenceError, match="No memory"):
        await batcher.start()
    await batcher.close()
    assert lane.events == ["start", "close"]


async def test_the_former_lanes_serve_until_the_new_ones_have_started() -> None:
    former, new = NamedLane("former"), NamedLane("new")
    batcher = batcher_of(former)
    new.may_start.clear()
    takeover = asyncio.create_task(batcher.replace_lanes([new.lane()], max_batch=8, probe_items=[0]))
    await asyncio.sleep(0.01)
    assert await ask(batcher, 1) == [("former", 1)]
    assert batcher.max_batch == 2
    new.may_start.set()
    await takeover
    assert batcher.max_batch == 8
    assert await ask(batcher, 1) == [("new", 1)]
    await until("close", former)
    await batcher.close()


async def test_runs_under_way_end_where_they_began_and_what_waits_goes_to_the_new_lanes() -> None:
    former, new = NamedLane("former"), NamedLane("new")
    batcher = batcher_of(former)
    former.may_run.clear()
    calls = [asyncio.create_task(ask(batcher, item)) for item in range(3)]
    await until_running(batcher, 1)
    assert batcher.waiting == 1
    await batcher.replace_lanes([new.lane()], max_batch=8, probe_items=[0])
    assert await calls[2] == [("new", 2)]
    assert "close" not in former.events, "a lane was closed under its run"
    former.may_run.set()
    assert await calls[0] == [("former", 0)]
    assert await calls[1] == [("former", 1)]
    await until("close", former)
    await batcher.close()


async def test_former_lanes_close_together_when_none_of_them_runs() -> None:
    """They may share what they close."""
    idle, busy, new = NamedLane("idle"), NamedLane("busy"), NamedLane("new")
    batcher = batcher_of(idle, busy, max_batch=1)
    await batcher.start()
    busy.may_run.clear()
    idle.may_run.clear()
    calls = [asyncio.create_task(ask(batcher, item)) for item in range(2)]
    await until_running(batcher, 2)
    idle.may_run.set()
    await until("run", idle)
    await batcher.replace_lanes([new.lane()], max_batch=1, probe_items=[0])
    await asyncio.sleep(0.02)
    assert "close" not in idle.events
    busy.may_run.set()
    await asyncio.gather(*calls)
    await until("close", idle)
    await until("close", busy)
    await batcher.close()


async def test_where_a_new_lane_cannot_start_the_former_serve_on() -> None:
    former, good, bad = NamedLane("former"), NamedLane("good"), NamedLane("bad", fault=InferenceError("No memory."))
    batcher = batcher_of(former)
    with pytest.raises(InferenceError, match="No memory"):
        await batcher.replace_lanes([good.lane(), bad.lane()], max_batch=8, probe_items=[0])
    assert await ask(batcher, 1) == [("former", 1)]
    assert batcher.max_batch == 2
    await until("close", good)
    await until("close", bad)
    await batcher.close()


async def test_a_takeover_that_is_cancelled_leaves_the_former_lanes() -> None:
    former, new = NamedLane("former"), NamedLane("new")
    batcher = batcher_of(former)
    new.may_start.clear()
    takeover = asyncio.create_task(batcher.replace_lanes([new.lane()], max_batch=8, probe_items=[0]))
    await asyncio.sleep(0.01)
    takeover.cancel()
    with pytest.raises(asyncio.CancelledError):
        await takeover
    new.may_start.set()
    await until("close", new)
    assert await ask(batcher, 1) == [("former", 1)]
    await batcher.close()


async def test_lanes_of_a_batcher_that_closes_meanwhile_are_closed_with_it() -> None:
    former, new = NamedLane("former"), NamedLane("new")
    batcher = batcher_of(former)
    new.may_start.clear()
    takeover = asyncio.create_task(batcher.replace_lanes([new.lane()], max_batch=8, probe_items=[0]))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0.01)
    new.may_start.set()
    await closing
    await takeover
    assert former.events[-1] == new.events[-1] == "close"
    with pytest.raises(ShuttingDownError):
        await batcher.replace_lanes([NamedLane("late").lane()], max_batch=1, probe_items=[0])


async def test_the_failures_of_former_lanes_are_forgotten() -> None:
    former, new = NamedLane("former"), NamedLane("new")

    def fail(_items: Sequence[int]) -> list[tuple[str, int]]:
        raise InferenceError("Broken.")

    batcher: Batcher[int, tuple[str, int]] = Batcher(
        "swap", [Lane(run=fail)], max_batch=1, max_waiting=9, metrics=Metrics()
    )
    with structlog.testing.capture_logs(), pytest.raises(InferenceError):
        await ask(batcher, 1)
    assert batcher.last_run_failed
    await batcher.replace_lanes([former.lane(), new.lane()], max_batch=1, probe_items=[0])
    assert not batcher.last_run_failed
    await batcher.close()


async def test_lanes_can_be_replaced_again_and_numbers_are_checked() -> None:
    lanes = [NamedLane(str(number)) for number in range(4)]
    batcher = batcher_of(lanes[0])
    for lane in lanes[1:]:
        await batcher.replace_lanes([lane.lane()], max_batch=1, probe_items=[0])
        assert await ask(batcher, 7) == [(lane.name, 7)]
    await batcher.close()
    assert [lane.events.count("close") for lane in lanes] == [1] * 4


@pytest.mark.parametrize("seed", range(6))
async def test_under_load_every_caller_is_answered_once_whenever_lanes_change(seed: int) -> None:
    """Callers that never pause, takeovers at random times, some of which fail."""
    chance = random.Random(seed)
    crews = [
        [NamedLane(f"{number}-{lane}", run_s=0.0005) for lane in range(chance.choice([1, 2, 3]))] for number in range(6)
    ]
    for number in (2, 4):
        crews[number][-1].fault = InferenceError("No memory.")
    batcher = batcher_of(*crews[0], max_batch=4)
    served: Counter[str] = Counter()
    is_over = asyncio.Event()

    async def call(caller: int) -> int:
        count = 0
        while not is_over.is_set():
            items = [caller * 1_000_000 + count * 10 + position for position in range(1 + count % 5)]
            results = await ask(batcher, *items)
            assert [item for _, item in results] == items
            served.update(name.split("-")[0] for name, _ in results)
            count += 1
        return count

    callers = [asyncio.create_task(call(caller)) for caller in range(12)]
    for number, crew in enumerate(crews[1:], start=1):
        await asyncio.sleep(chance.uniform(0.005, 0.03))
        try:
            await batcher.replace_lanes(
                [lane.lane() for lane in crew], max_batch=chance.choice([1, 4, 8]), probe_items=[0]
            )
        except InferenceError:
            assert number in (2, 4)
    await until("run", crews[5][0])
    is_over.set()
    counts = await asyncio.gather(*callers)
    await batcher.close()
    assert min(counts) > 0
    assert {served["2"], served["4"]} == {0}
    for lane in (lane for crew in crews for lane in crew):
        assert lane.events[0] == "start"
        assert lane.events[-1] == "close"
        assert lane.events.count("close") == 1
        assert len(lane.threads) == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("swap")]
