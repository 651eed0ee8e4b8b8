"""Lanes that take ahead: a full batch lies ready behind a run, and the lane needs nobody to begin with it."""

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
from jetface.batching.submission import BatchOutcome
from jetface.errors import DeadlineExceededError, InferenceError, QueueFullError, ShuttingDownError
from tests.support.recorder import Recorder

LONG_S = 30.0


class SteppedLane:
    """Ends a run when it is told to, and says when one begins; answers each item with itself."""

    def __init__(self, *, takes_ahead: bool = True, poison: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self.spans: list[tuple[float, float]] = []
        """When each run began and ended."""
        self.may_end = threading.Semaphore(0)
        self.has_begun = threading.Semaphore(0)
        self.is_closed = threading.Event()
        self._poison = poison
        self.lane: Lane[int, int] = Lane(run=self.run, close=self.is_closed.set, takes_ahead=takes_ahead)

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
    """Yield a batcher of full batches of 2 whose lanes are in a run, each of one item: 0, -1, ..."""
    recorder = Recorder()
    options = {"max_batch": 2, "max_waiting": 100, **options}
    batcher: Batcher[int, int] = Batcher("ahead", [lane.lane for lane in lanes], observer=recorder, **options)
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
    await settle()
    return task


async def settle() -> None:
    """Let everything that is ready on the loop happen."""
    for _ in range(10):
        await asyncio.sleep(0)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel callers and let them go."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_full_batch_begins_while_the_event_loop_is_held_up() -> None:
    """Between two runs the lane waits for nobody."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, _):
        task = await submit(batcher, 1, 2)
        lane.step()
        lane.begins()
        assert lane.batches == [[0], [1, 2]]
        lane.release()
        assert (await task).results == [1, 2]


@pytest.mark.parametrize(
    ("takes_ahead", "items"),
    [
        pytest.param(True, (1,), id="not full"),
        pytest.param(True, (1, 2), id="two keys"),
        pytest.param(False, (1, 3), id="a lane of a core"),
    ],
)
async def test_nothing_else_is_handed_over_before_the_run_ends(takes_ahead: bool, items: tuple[int, ...]) -> None:
    """What waits for company, or for a lane that does not take ahead, can still be withdrawn."""
    lane = SteppedLane(takes_ahead=takes_ahead)
    async with in_a_run(lane, key=lambda item: item % 2) as (batcher, recorder):
        await cancelled(await submit(batcher, *items))
        assert recorder.drops == {"cancelled": len(items)}
        assert batcher.waiting == 0
    assert lane.batches == [[0]]


async def test_one_batch_lies_ready_no_more() -> None:
    """A batch that was handed over runs though its callers have left; the one behind it never does."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, recorder):
        ready, behind = await submit(batcher, 1, 2), await submit(batcher, 3, 4)
        await cancelled(ready, behind)
        assert recorder.drops == {"cancelled": 2}
        assert batcher.waiting == 2
    assert lane.batches == [[0], [1, 2]]
    assert recorder.num_waited == sum(recorder.batch_sizes) == 3


async def test_batches_follow_one_another_in_order() -> None:
    """Each end makes the ready batch the run, and the next one ready."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, recorder):
        task = await submit(batcher, *range(1, 8))
        lane.release()
        assert (await task).results == [*range(1, 8)]
    assert lane.batches == [[0], [1, 2], [3, 4], [5, 6], [7]]
    assert recorder.batch_sizes == [1, 2, 2, 2, 1]
    assert recorder.num_waited == 8


async def test_whose_turn_it_is_decides_even_where_its_batch_is_not_full() -> None:
    """A full batch of another key does not overtake the group that leads."""
    lane = SteppedLane()
    async with in_a_run(lane, key=lambda item: item % 2) as (batcher, _):
        single, crowd = await submit(batcher, 1, group="single"), await submit(batcher, 2, 4, group="crowd")
        lane.release()
        await asyncio.gather(single, crowd)
    assert lane.batches == [[0], [1], [2, 4]]


async def test_a_newcomer_rides_in_the_batch_behind_the_ready_one() -> None:
    """A crowd has one batch of a start, not more."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, _):
        crowd, single = await submit(batcher, *range(1, 9), group="crowd"), await submit(batcher, 99, group="single")
        lane.release()
        await asyncio.gather(crowd, single)
    assert 99 in lane.batches[2]


async def test_a_batch_lies_ready_on_the_lane_whose_run_began_first() -> None:
    """That is the one to be free next."""
    lanes = SteppedLane(), SteppedLane()
    async with in_a_run(*lanes, max_batch=1) as (batcher, _):
        first, second = sorted(lanes, key=lambda lane: -lane.batches[0][0])
        tasks = [await submit(batcher, item) for item in (1, 2, 3)]
        assert batcher.waiting == 3
        first.step()
        first.begins()
        second.step()
        second.begins()
        assert (first.batches[1], second.batches[1]) == ([1], [2])
        first.release()
        second.release()
        await asyncio.gather(*tasks)


async def test_a_ready_batch_waits_until_the_run_before_it_ends() -> None:
    """Counts, age and waits are those of what runs."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, recorder):
        task = await submit(batcher, 1, 2)
        assert (batcher.waiting, batcher.running, recorder.num_waited) == (2, 1, 1)
        lane.step()
        lane.begins()
        await settle()
        while batcher.waiting:  # noqa: ASYNC110 - the end is on its way from the lane's thread
            await asyncio.sleep(0.001)
        assert (batcher.waiting, batcher.running, recorder.num_waited) == (0, 1, 3)
        assert 0 <= batcher.oldest_run_s() <= time.monotonic() - lane.spans[0][1]
        lane.release()
        await task


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


async def test_a_batch_given_to_a_lane_that_has_just_ended_did_not_run_before_it_was_given() -> None:
    """The loop may not know yet that the lane is idle."""
    lane = SteppedLane()

    async def hold_up() -> float:
        """Let the run end between the submission and the hand-over, and tell how long that took."""
        since = time.monotonic()
        lane.step()
        while not lane.spans:
            time.sleep(0.001)  # noqa: ASYNC251 - the loop is held up on purpose
        time.sleep(0.02)  # noqa: ASYNC251 - as above
        return time.monotonic() - since

    async with in_a_run(lane) as (batcher, _):
        task = asyncio.create_task(batcher.submit([1, 2], group=0, deadline=time.monotonic() + LONG_S))
        held_up_s = await asyncio.create_task(hold_up())
        lane.release()
        assert (await task).queued_s >= held_up_s


async def test_ready_items_count_against_the_limit() -> None:
    """The queue is full with as many waiting items as without a ready batch."""
    lane = SteppedLane()
    async with in_a_run(lane, max_waiting=3) as (batcher, _):
        ready = await submit(batcher, 1, 2)
        with pytest.raises(QueueFullError):
            await (await submit(batcher, 3, 4))
        fits = await submit(batcher, 3)
        assert batcher.waiting == 3
        lane.release()
        await asyncio.gather(ready, fits)


async def test_a_deadline_passes_while_a_batch_lies_ready() -> None:
    """The caller is told in time; the items run, so they were not dropped."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, recorder):
        late = await submit(batcher, 1, within_s=0.25)
        other = await submit(batcher, 2, group="other")
        with pytest.raises(DeadlineExceededError):
            await late
        lane.release()
        assert (await other).results == [2]
    assert lane.batches == [[0], [1, 2]]
    assert recorder.drops == {}


async def test_a_caller_who_leaves_in_the_turn_of_the_hand_over_costs_no_run() -> None:
    """Even when the withdrawal has not had its turn."""
    lane = SteppedLane()
    async with in_a_run(lane, max_batch=1) as (batcher, recorder):
        deadline = asyncio.get_running_loop().time() + LONG_S
        gone = asyncio.create_task(batcher.submit([1], group=0, deadline=deadline))
        await asyncio.sleep(0)
        await cancelled(gone)
        assert recorder.drops == {"cancelled": 1}
    assert lane.batches == [[0]]


async def test_the_failure_of_a_run_does_not_hurt_the_batch_that_lies_ready() -> None:
    """It runs next; the failed items are tried again behind it."""
    lane = SteppedLane(poison=13)
    async with in_a_run(lane) as (batcher, recorder):
        with structlog.testing.capture_logs():
            good, bad = await submit(batcher, 1, group=1), await submit(batcher, 13, group=2)
            behind = await submit(batcher, 3, 4, group=3)
            lane.release()
            assert (await good).results == [1]
            assert (await behind).results == [3, 4]
            with pytest.raises(InferenceError):
                await bad
    assert lane.batches[:3] == [[0], [1, 13], [3, 4]]
    assert sorted(lane.batches[3:]) == [[1], [13]]
    assert recorder.num_failed == 2


async def test_lanes_that_are_replaced_run_what_lies_ready_and_close_after_it() -> None:
    """What is in the queue goes to the new lanes."""
    former, new = SteppedLane(), SteppedLane()
    async with in_a_run(former) as (batcher, _):
        ready, waits = await submit(batcher, 1, 2), await submit(batcher, 3, 4)
        await batcher.replace_lanes([new.lane], max_batch=4, probe_items=[0])
        new.release()
        assert (await waits).results == [3, 4]
        former.step()
        former.begins()
        await settle()
        assert not former.is_closed.is_set()
        former.step()
        assert (await ready).results == [1, 2]
        assert await asyncio.to_thread(former.is_closed.wait, LONG_S)
    assert former.batches == [[0], [1, 2]]
    assert new.batches == [[3, 4]]


@pytest.mark.parametrize("drain", [True, False])
async def test_a_close_waits_for_the_batch_that_lies_ready(drain: bool) -> None:
    """It cannot be withdrawn, so it is answered; what is in the queue runs only in a drain."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, _):
        ready, waits = await submit(batcher, 1, 2), await submit(batcher, 3)
        closing = asyncio.create_task(batcher.close(drain=drain, grace_s=LONG_S))
        await settle()
        lane.release()
        await closing
        assert (await ready).results == [1, 2]
        if drain:
            assert (await waits).results == [3]
        else:
            with pytest.raises(ShuttingDownError):
                await waits


async def test_a_lane_left_behind_fails_its_ready_batch_with_its_run() -> None:
    """After the grace nobody waits; should the run end after all, the lane does what it was given and closes."""
    lane = SteppedLane()
    async with in_a_run(lane) as (batcher, _):
        ready = await submit(batcher, 1, 2)
        with structlog.testing.capture_logs() as logs:
            await batcher.close(grace_s=0)
        assert [entry["event"] for entry in logs] == ["lanes left behind"]
        with pytest.raises(ShuttingDownError):
            await ready
        lane.release()
        assert await asyncio.to_thread(lane.is_closed.wait, LONG_S)
        while batcher.running:  # noqa: ASYNC110 - the end is on its way from the lane's thread
            await asyncio.sleep(0.001)
    assert lane.batches == [[0], [1, 2]]
