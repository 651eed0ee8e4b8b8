"""Lanes that help themselves: between two runs a lane waits for nobody, and what it takes is still wanted."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import structlog.testing

from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.batching.queue import BatchOutcome
from jetface.errors import DeadlineExceededError, InferenceError, ShuttingDownError
from jetface.metrics import Metrics
from tests.support.recorder import Recorder

LONG_S = 30.0


class SteppedLane:
    """Ends a run when it is told to, and says when one begins; answers each item with itself."""

    def __init__(self, *, poison: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self.spans: list[tuple[float, float]] = []
        """When each run began and ended."""
        self.may_end = threading.Semaphore(0)
        self.has_begun = threading.Semaphore(0)
        self.is_closed = threading.Event()
        self._poison = poison
        self.lane: Lane[int, int] = Lane(run=self.run, close=self.is_closed.set)

    def run(self, items: Sequence[int]) -> Sequence[int]:
        began = time.monotonic()
        self.batches.append(list(items))
        self.has_begun.release()
        assert self.may_end.acquire(timeout=LONG_S)
        self.spans.append((began, time.monotonic()))
        if self._poison in items:
            raise ValueError("poison")
        return items

    def begins(self) -> None:
        """Wait for the beginning of a run with the event loop held up: nothing on it happens meanwhile."""
        assert self.has_begun.acquire(timeout=LONG_S)

    def step(self, num_runs: int = 1) -> None:
        """Let runs end."""
        self.may_end.release(num_runs)

    def release(self) -> None:
        """Let all runs end as they come."""
        self.step(1000)


@contextlib.asynccontextmanager
async def in_a_run(*lanes: SteppedLane, **options: Any) -> AsyncIterator[tuple[Batcher[int, int], Recorder]]:
    """Yield a batcher of batches of 2 whose lanes are in a run, each of one item: 0, -1, ..."""
    recorder = Recorder("pull")
    options = {"max_batch": 2, "max_waiting": 100, **options}
    batcher: Batcher[int, int] = Batcher("pull", [lane.lane for lane in lanes], metrics=recorder.metrics, **options)
    first = [await submit(batcher, -number, group="first") for number in range(len(lanes))]
    for lane in lanes:
        lane.begins()
    assert batcher.running == len(lanes)
    try:
        yield batcher, recorder
    finally:
        for lane in lanes:
            lane.release()
        await asyncio.gather(*first, return_exceptions=True)
        with structlog.testing.capture_logs():
            await batcher.close()
        for lane in lanes:
            assert await asyncio.to_thread(lane.is_closed.wait, LONG_S)
        assert batcher.waiting == batcher.running == 0


async def submit(
    batcher: Batcher[int, int], *items: int, group: object = 0, within_s: float = LONG_S
) -> asyncio.Task[BatchOutcome[int]]:
    """Start a submission and let the batcher act on it."""
    deadline = asyncio.get_running_loop().time() + within_s
    task = asyncio.create_task(batcher.submit(items, group=group, deadline=deadline))
    for _ in range(10):
        await asyncio.sleep(0)
    return task


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel callers and let them go."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("items", [(1,), (1, 3)], ids=["some", "a full batch"])
async def test_the_next_run_begins_while_the_event_loop_is_held_up(items: tuple[int, ...]) -> None:
    """Between two runs the lane waits for nobody."""
    lane = SteppedLane()
    async with in_a_run(lane, key=lambda item: item % 2) as (batcher, _):
        task = await submit(batcher, *items)
        lane.step()
        lane.begins()
        assert lane.batches == [[0], [*items]]
        assert (batcher.waiting, batcher.running) == (0, 1)
        assert 0 <= batcher.oldest_run_s() <= time.monotonic() - lane.spans[0][1]
        lane.release()
        assert (await task).results == [*items]


async def test_what_waits_behind_a_run_can_be_withdrawn_up_to_its_end() -> None:
    """However many wait, none of them is given away."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, recorder):
        await cancelled(await submit(batcher, 1, 2), await submit(batcher, 3, 4))
        assert recorder.drops == {"cancelled": 4}
        assert batcher.waiting == 0
    assert lane.batches == [[0]]
    assert recorder.num_waited == recorder.num_ran == 1


async def test_a_caller_who_is_late_is_skipped_though_nobody_could_be_told() -> None:
    """The loop is held up, so that the deadline's timer does not fire: the lane looks at the clock itself."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, recorder):
        late = await submit(batcher, 1, within_s=0.02)
        other = await submit(batcher, 2, group="other")
        time.sleep(0.03)  # noqa: ASYNC251 - the loop is held up on purpose
        lane.step()
        lane.begins()
        assert lane.batches == [[0], [2]]
        lane.release()
        assert (await other).results == [2]
        with pytest.raises(DeadlineExceededError):
            await late
    assert recorder.drops == {"deadline": 1}


async def test_a_caller_who_has_just_left_is_skipped() -> None:
    """Even when its withdrawal has not had its turn of the loop."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, recorder):
        gone = await submit(batcher, 1)
        other = await submit(batcher, 2, group="other")
        gone.cancel()
        lane.step()
        lane.begins()
        assert lane.batches == [[0], [2]]
        lane.release()
        await other
    assert recorder.drops == {"cancelled": 1}


async def test_the_rest_of_a_failed_submission_is_skipped_before_its_caller_knows() -> None:
    """The lane has seen it fail; the loop is held up."""
    lane = SteppedLane(poison=13)
    async with in_a_run(lane, max_batch=1) as (batcher, recorder):
        failed = await submit(batcher, 13, 1, 2, group="failed")
        other = await submit(batcher, 3, group="other")
        with structlog.testing.capture_logs():
            lane.step(2)
            lane.begins()
            lane.begins()
            lane.release()
            with pytest.raises(InferenceError):
                await failed
            await other
    assert lane.batches == [[0], [13], [3]]
    assert recorder.drops == {"failed": 2}


async def test_items_of_a_failed_batch_run_alone_and_behind_the_others() -> None:
    """The lane goes on with what waited, then tries each again, and asks nobody."""
    lane = SteppedLane(poison=13)
    async with in_a_run(lane) as (batcher, recorder):
        with structlog.testing.capture_logs():
            good, bad = await submit(batcher, 1, group=1), await submit(batcher, 13, group=2)
            behind = await submit(batcher, 3, 4, group=3)
            lane.step(5)
            for _ in range(4):
                lane.begins()
            assert (await good).results == [1]
            assert (await behind).results == [3, 4]
            with pytest.raises(InferenceError):
                await bad
    assert lane.batches[:3] == [[0], [1, 13], [3, 4]]
    assert sorted(lane.batches[3:]) == [[1], [13]]
    assert recorder.num_failed == 2
    assert recorder.num_waited == 1 + 2 + 2 + 2


async def test_items_to_be_tried_again_wake_the_lane_that_sleeps() -> None:
    """One lane fails with two items: each is tried on a lane of its own."""
    lanes = SteppedLane(poison=13), SteppedLane(poison=13)
    async with in_a_run(*lanes, max_batch=2) as (batcher, _):
        tasks = [await submit(batcher, item, group=item) for item in (1, 13)]
        busy, idle = lanes
        busy.step()
        busy.begins()
        assert busy.batches[-1] == [1, 13]
        idle.step()
        while batcher.running != 1:  # noqa: ASYNC110 - a thread's
            await asyncio.sleep(0.001)
        with structlog.testing.capture_logs():
            busy.step()
            busy.begins()
            idle.begins()
            for lane in lanes:
                lane.release()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[0], BatchOutcome)
    assert isinstance(outcomes[1], InferenceError)


async def test_batches_follow_one_another_in_order() -> None:
    """A submission of many items needs the loop for nothing but its answer."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, recorder):
        task = await submit(batcher, *range(1, 8))
        lane.step(5)
        for _ in range(4):
            lane.begins()
        assert lane.batches == [[0], [1, 2], [3, 4], [5, 6], [7]]
        assert (await task).results == [*range(1, 8)]
    assert (recorder.num_waited, recorder.num_runs) == (8, 5)


async def test_whose_turn_it_is_decides_even_where_its_batch_is_not_full() -> None:
    """A full batch of another key does not overtake the group that leads."""
    lane = SteppedLane()
    async with in_a_run(lane, key=lambda item: item % 2) as (batcher, _):
        single, crowd = await submit(batcher, 1, group="single"), await submit(batcher, 2, 4, group="crowd")
        lane.release()
        await asyncio.gather(single, crowd)
    assert lane.batches == [[0], [1], [2, 4]]


async def test_a_newcomer_rides_in_the_next_batch() -> None:
    """A crowd has no start: nothing of it is given to the lane before its turn."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, _):
        crowd, single = await submit(batcher, *range(1, 9), group="crowd"), await submit(batcher, 99, group="single")
        lane.release()
        await asyncio.gather(crowd, single)
    assert 99 in lane.batches[1]


async def test_what_is_submitted_in_a_turn_stays_together_though_a_lane_comes_free_in_it() -> None:
    """A lane that looks for work in the middle of a turn does not take its first item alone."""
    lane = SteppedLane()
    async with in_a_run(lane, max_batch=3) as (batcher, _):
        deadline = asyncio.get_running_loop().time() + LONG_S

        async def call(item: int) -> list[int]:
            if item == 2:
                lane.step()
                while batcher.running:
                    time.sleep(0.001)  # noqa: ASYNC251 - the turn is held up on purpose
            return (await batcher.submit([item], group=item, deadline=deadline)).results

        tasks = [asyncio.create_task(call(item)) for item in (1, 2, 3)]
        await asyncio.sleep(0)
        lane.release()
        assert await asyncio.gather(*tasks) == [[1], [2], [3]]
    assert lane.batches == [[0], [1, 2, 3]]


async def test_times_are_those_of_the_lane_though_the_loop_learns_of_both_ends_at_once() -> None:
    """An outcome tells waiting from running by when the lane took the batch, not by when the loop heard of it."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, _):
        before = time.monotonic()
        task = await submit(batcher, 1, 2)
        submitted = time.monotonic()
        lane.step()
        lane.begins()
        time.sleep(0.02)  # noqa: ASYNC251 - the loop is held up on purpose
        lane.step()
        while len(lane.spans) < 2:
            time.sleep(0.001)  # noqa: ASYNC251 - as above
        outcome = await task
        wall_s = time.monotonic() - before
    (_, first_end), (began, ended) = lane.spans
    assert first_end - submitted <= outcome.queued_s <= began - before
    assert ended - began <= outcome.ran_s
    assert outcome.queued_s + outcome.ran_s <= wall_s


async def test_time_in_which_two_lanes_run_parts_of_a_submission_counts_once() -> None:
    """The part that ends last began first: what the other took lies within."""
    lanes = SteppedLane(), SteppedLane()
    batcher: Batcher[int, int] = Batcher(
        "pull", [lane.lane for lane in lanes], max_batch=1, max_waiting=9, metrics=Metrics()
    )
    before = time.monotonic()
    task = await submit(batcher, 1, 2, 3)
    for lane in lanes:
        lane.begins()
    short, long = lanes
    for _ in range(2):
        short.step()
        await asyncio.sleep(0.01)
    long.step()
    outcome = await task
    wall_s = time.monotonic() - before
    await batcher.close()
    (began, ended), *_ = long.spans
    assert ended - began <= outcome.ran_s <= wall_s
    assert outcome.queued_s + outcome.ran_s <= wall_s
    assert outcome.queued_s <= wall_s - (ended - began)


async def test_lanes_that_are_replaced_end_their_run_and_take_no_more() -> None:
    """What waits goes to the new lanes, a full batch too."""
    former, new = SteppedLane(), SteppedLane()
    async with in_a_run(former) as (batcher, _):
        waits = await submit(batcher, 1, 2)
        await batcher.replace_lanes([new.lane], max_batch=4, probe_items=[0])
        new.release()
        assert (await waits).results == [1, 2]
        assert not former.is_closed.is_set()
        former.step()
        assert await asyncio.to_thread(former.is_closed.wait, LONG_S)
    assert former.batches == [[0]]


async def test_what_fails_on_a_former_lane_is_tried_again_on_the_new_ones() -> None:
    former, new = SteppedLane(poison=13), SteppedLane()
    async with in_a_run(former) as (batcher, _):
        tasks = [await submit(batcher, item, group=item) for item in (1, 13)]
        former.step()
        former.begins()
        await batcher.replace_lanes([new.lane], max_batch=4, probe_items=[0])
        new.release()
        with structlog.testing.capture_logs():
            former.step()
            outcomes = await asyncio.gather(*tasks)
    assert [outcome.results for outcome in outcomes] == [[1], [13]]
    assert sorted(new.batches) == [[1], [13]]


@pytest.mark.parametrize("drain", [True, False])
async def test_a_close_leaves_what_waits_to_the_lanes_only_in_a_drain(drain: bool) -> None:
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, _):
        waits = await submit(batcher, 1, 2)
        closing = asyncio.create_task(batcher.close(drain=drain, grace_s=LONG_S))
        await asyncio.sleep(0)
        lane.release()
        await closing
        if drain:
            assert (await waits).results == [1, 2]
        else:
            with pytest.raises(ShuttingDownError):
                await waits


async def test_a_drain_waits_for_what_is_tried_again() -> None:
    """Also where the lane that failed has been replaced, and those that serve are idle."""
    former, new = SteppedLane(poison=13), SteppedLane()
    async with in_a_run(former) as (batcher, _):
        tasks = [await submit(batcher, item, group=item) for item in (1, 13)]
        former.step()
        former.begins()
        await batcher.replace_lanes([new.lane], max_batch=4, probe_items=[0])
        closing = asyncio.create_task(batcher.close(grace_s=LONG_S))
        await asyncio.sleep(0.01)
        assert not new.is_closed.is_set()
        new.release()
        with structlog.testing.capture_logs():
            former.step()
            await closing
            assert [outcome.results for outcome in await asyncio.gather(*tasks)] == [[1], [13]]


async def test_a_lane_left_behind_takes_nothing_more() -> None:
    """After the grace nobody waits; should the run end after all, the lane closes."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, recorder):
        waits = await submit(batcher, 1, 2)
        with structlog.testing.capture_logs() as logs:
            await batcher.close(grace_s=0)
        assert [entry["event"] for entry in logs] == ["lanes left behind"]
        with pytest.raises(ShuttingDownError):
            await waits
        assert recorder.drops == {"shutdown": 2}
        lane.release()
        assert await asyncio.to_thread(lane.is_closed.wait, LONG_S)
    assert lane.batches == [[0]]
