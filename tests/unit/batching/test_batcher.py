"""What a batcher does, one behaviour at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.errors import (
    DeadlineExceededError,
    InferenceError,
    ModelBuildingError,
    QueueFullError,
    ServiceError,
    ShuttingDownError,
)
from jetface.metrics import Metrics
from tests.support.recorder import Recorder


class Model:
    """A lane that records its batches and threads, waits while its gate is shut, and chokes on what it is told to."""

    def __init__(self, *, fails: Callable[[Sequence[int]], BaseException | None] = lambda _: None) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.is_closed = False
        self._fails = fails

    def run(self, items: Sequence[int]) -> list[str]:
        """Answer each item with its name."""
        self.threads.add(threading.get_ident())
        self.batches.append(list(items))
        assert self.gate.wait(10)
        error = self._fails(items)
        if error is not None:
            raise error
        return [f"result of {item}" for item in items]

    def close(self) -> None:
        """Record the thread that closes."""
        self.threads.add(threading.get_ident())
        self.is_closed = True

    @property
    def lane(self) -> Lane[int, str]:
        """The model as a lane."""
        return Lane(run=self.run, close=self.close)


@contextlib.asynccontextmanager
async def serving(*models: Model, **options: Any) -> AsyncIterator[tuple[Batcher[int, str], Recorder]]:
    """Yield a batcher on `models`; close it, and check that it leaves neither thread nor task behind."""
    recorder = Recorder("test")
    options = {"max_batch": 4, "max_waiting": 100, **options}
    lanes = options.pop("lanes", [model.lane for model in models])
    batcher: Batcher[int, str] = Batcher("test", lanes, metrics=recorder.metrics, **options)
    try:
        yield batcher, recorder
    finally:
        for model in models:
            model.gate.set()
        await batcher.close()
        assert is_rid_of_threads()
        assert all(model.is_closed for model in models)


def soon(seconds: float = 5.0) -> float:
    """Return a deadline."""
    return asyncio.get_running_loop().time() + seconds


def submit(
    batcher: Batcher[int, str], *items: int, group: object = 0, within_s: float = 5.0
) -> asyncio.Task[list[str]]:
    """Start a submission in a task of its own."""

    async def call() -> list[str]:
        return (await batcher.submit(items, group=group, deadline=soon(within_s))).results

    return asyncio.create_task(call())


async def settle() -> None:
    """Let everything that is ready on the loop happen."""
    for _ in range(10):
        await asyncio.sleep(0)


async def busy(batcher: Batcher[int, str], model: Model) -> asyncio.Task[list[str]]:
    """Shut the gate and occupy the lane with item -1."""
    model.gate.clear()
    task = submit(batcher, -1, group="busy")
    await begun(batcher)
    return task


async def begun(batcher: Batcher[int, str], num_runs: int = 1) -> None:
    """Wait until lanes have taken what they can."""
    await until(lambda: batcher.running == num_runs)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what another thread does soon."""
    for _ in range(2500):
        if is_so():
            return
        await asyncio.sleep(0.002)
    pytest.fail("it did not happen")


def is_rid_of_threads() -> bool:
    """Whether no lane's thread is alive."""
    return not [thread for thread in threading.enumerate() if thread.name.startswith("test-")]


async def ended(stuck: Model) -> None:
    """Let the run of a lane that was left behind end, and its thread with it."""
    stuck.gate.set()
    await until(is_rid_of_threads)
    assert stuck.is_closed


def expected(*items: int) -> list[str]:
    """What `Model` answers."""
    return [f"result of {item}" for item in items]


async def test_results_come_in_the_order_of_the_items() -> None:
    """A crowd is cut into batches and put together again."""
    model = Model()
    async with serving(model) as (batcher, recorder):
        assert await submit(batcher, *range(10)) == expected(*range(10))
    assert [len(batch) for batch in model.batches] == [4, 4, 2]
    assert (recorder.num_waited, recorder.num_runs, recorder.num_ran) == (10, 3, 10)


async def test_no_items_need_no_run() -> None:
    """An empty submission is answered at once."""
    model = Model()
    async with serving(model) as (batcher, _):
        assert await submit(batcher) == []
    assert model.batches == []


async def test_submissions_of_one_turn_of_the_loop_share_a_run() -> None:
    """Tasks that submit together run together, without a timer."""
    model = Model()
    async with serving(model) as (batcher, _):
        results = await asyncio.gather(*(submit(batcher, item, group=item) for item in range(3)))
    assert results == [expected(0), expected(1), expected(2)]
    assert model.batches == [[0, 1, 2]]


async def test_what_came_during_a_run_forms_the_next_batch() -> None:
    """The lane takes all that waits as soon as it is free."""
    model = Model()
    async with serving(model) as (batcher, _):
        first = await busy(batcher, model)
        others = [submit(batcher, item, group=item) for item in range(3)]
        await settle()
        assert batcher.waiting == 3
        model.gate.set()
        await asyncio.gather(first, *others)
        assert batcher.waiting == batcher.running == 0
    assert model.batches == [[-1], [0, 1, 2]]


async def test_keys_do_not_mix() -> None:
    """Items of two shapes never share a run."""
    model = Model()
    async with serving(model, key=lambda item: item % 2) as (batcher, _):
        assert await submit(batcher, *range(6)) == expected(*range(6))
    assert model.batches == [[0, 2, 4], [1, 3, 5]]


async def test_a_crowd_does_not_starve_a_single() -> None:
    """A single that comes behind a crowd rides in the next batch."""
    model = Model()
    async with serving(model) as (batcher, _):
        first = await busy(batcher, model)
        crowd = submit(batcher, *range(50), group="crowd")
        await settle()
        single = submit(batcher, 99, group="single")
        await settle()
        model.gate.set()
        await asyncio.gather(first, crowd, single)
    assert 99 in model.batches[1]


async def test_lanes_work_on_parts_of_one_submission_each_on_its_own_thread() -> None:
    """Two lanes halve what one submission brings; a lane keeps its thread to the end."""
    models = Model(), Model()
    async with serving(*models) as (batcher, _):
        for model in models:
            model.gate.clear()
        task = submit(batcher, 0, 1, 2, 3)
        await begun(batcher, 2)
        for model in models:
            model.gate.set()
        assert await task == expected(0, 1, 2, 3)
    assert [len(model.batches[0]) for model in models] == [2, 2]
    assert all(len(model.threads) == 1 for model in models)
    assert models[0].threads != models[1].threads


async def test_cancelled_callers_cost_no_inference() -> None:
    """Cancelling withdraws what has not started, and it is counted."""
    model = Model()
    async with serving(model) as (batcher, recorder):
        first = await busy(batcher, model)
        gone, stays = submit(batcher, 1, 2, group="gone"), submit(batcher, 3, group="stays")
        await settle()
        gone.cancel()
        await settle()
        assert batcher.waiting == 1
        model.gate.set()
        await asyncio.gather(first, stays)
    assert model.batches == [[-1], [3]]
    assert recorder.drops == {"cancelled": 2}


async def test_a_caller_cancelled_in_the_turn_of_the_dispatch_costs_no_inference() -> None:
    """Even when the withdrawal has not run yet, a gone caller's item is left out."""
    model = Model()
    async with serving(model) as (batcher, recorder):
        gone = submit(batcher, 1)
        await asyncio.sleep(0)
        gone.cancel()
        await settle()
    assert model.batches == []
    assert recorder.drops == {"cancelled": 1}


async def test_cancelling_during_the_run_leaves_the_neighbours_their_results() -> None:
    """A result nobody waits for is thrown away."""
    model = Model()
    async with serving(model) as (batcher, recorder):
        model.gate.clear()
        gone, stays = submit(batcher, 1), submit(batcher, 2)
        await begun(batcher)
        gone.cancel()
        await settle()
        model.gate.set()
        assert await stays == expected(2)
    assert recorder.drops == {}


async def test_a_passed_deadline_is_told_while_the_run_goes_on() -> None:
    """The caller does not wait for a run that ends too late."""
    model = Model()
    async with serving(model) as (batcher, _):
        model.gate.clear()
        late = submit(batcher, 1, within_s=0.25)
        await begun(batcher)
        with pytest.raises(DeadlineExceededError):
            await late
        assert batcher.running == 1


async def test_late_items_are_dropped_before_compute() -> None:
    """An item whose deadline passes in the queue never runs."""
    model = Model()
    async with serving(model) as (batcher, recorder):
        first = await busy(batcher, model)
        with pytest.raises(DeadlineExceededError):
            await submit(batcher, 1, 2, within_s=0.02)
        model.gate.set()
        await first
    assert model.batches == [[-1]]
    assert recorder.drops == {"deadline": 2}


async def test_an_item_that_is_late_when_its_turn_comes_is_dropped() -> None:
    """A deadline that passed while the loop was held up counts, though its timer has not fired."""
    model = Model()
    async with serving(model) as (batcher, recorder):
        late = submit(batcher, 1, within_s=0.001)
        await asyncio.sleep(0)
        threading.Event().wait(0.005)
        with pytest.raises(DeadlineExceededError):
            await late
    assert model.batches == []
    assert recorder.drops == {"deadline": 1}


async def test_a_submission_that_is_late_already_is_refused() -> None:
    """Nothing is queued for a caller who cannot use the answer."""
    model = Model()
    async with serving(model) as (batcher, recorder):
        with pytest.raises(DeadlineExceededError):
            await submit(batcher, 1, within_s=0)
    assert recorder.drops == {"deadline": 1}


async def test_a_failed_run_reaches_every_waiter_as_its_own_error() -> None:
    """Each gets an InferenceError instance of its own with the cause chained, and the next run is unharmed."""
    fault = RuntimeError("device lost")
    model = Model(fails=lambda items: fault if max(items) < 10 else None)
    async with serving(model) as (batcher, recorder):
        errors = await asyncio.gather(submit(batcher, 1), submit(batcher, 2), return_exceptions=True)
        assert [type(error) for error in errors] == [InferenceError, InferenceError]
        assert errors[0] is not errors[1]
        assert all(isinstance(error, InferenceError) and error.__cause__ is fault for error in errors)
        assert batcher.last_run_failed
        assert await submit(batcher, 11) == expected(11)
        assert not batcher.last_run_failed
    assert recorder.num_failed == 3


async def test_a_poisonous_item_fails_alone() -> None:
    """A failed batch runs again item by item: neighbours get their results."""
    model = Model(fails=lambda items: ValueError("poison") if 13 in items else None)
    async with serving(model) as (batcher, _):
        good, bad, fine = submit(batcher, 1, group=1), submit(batcher, 13, group=2), submit(batcher, 2, group=3)
        assert await good == expected(1)
        assert await fine == expected(2)
        with pytest.raises(InferenceError):
            await bad
    assert model.batches == [[1, 13, 2], [1], [13], [2]]


async def test_the_rest_of_a_failed_submission_does_not_run() -> None:
    """Once one item has failed, its siblings in the queue have no caller left."""
    model = Model(fails=lambda items: ValueError("poison") if 0 in items else None)
    async with serving(model, max_batch=1) as (batcher, recorder):
        with pytest.raises(InferenceError):
            await submit(batcher, 0, 1, 2)
    assert model.batches == [[0]]
    assert recorder.drops == {"failed": 2}


async def test_a_callers_retry_is_not_run_when_the_caller_has_gone() -> None:
    """A caller who leaves during the batch that fails is not tried again."""
    model = Model(fails=lambda items: ValueError("poison") if len(items) > 1 else None)
    async with serving(model) as (batcher, _):
        model.gate.clear()
        gone, stays = submit(batcher, 1), submit(batcher, 2)
        await begun(batcher)
        gone.cancel()
        await settle()
        model.gate.set()
        assert await stays == expected(2)
    assert model.batches == [[1, 2], [2]]


async def test_a_wrong_number_of_results_is_a_failure() -> None:
    """Results are never guessed to belong to someone."""
    lane: Lane[int, str] = Lane(run=lambda items: ["one too few"] * (len(items) - 1))
    async with serving(lanes=[lane]) as (batcher, _):
        with pytest.raises(InferenceError, match="1 items went in, 0 results came out"):
            await submit(batcher, 1)


async def test_a_service_error_of_the_lane_keeps_its_type() -> None:
    """`Retry-After` and code reach each caller, and a lane that cannot be had is not asked item by item."""
    building = ModelBuildingError("The engine is being built.", retry_after_s=7)
    model = Model(fails=lambda _: building)
    async with serving(model) as (batcher, _):
        errors = await asyncio.gather(submit(batcher, 1), submit(batcher, 2), return_exceptions=True)
    for error in errors:
        assert isinstance(error, ModelBuildingError)
        assert error is not building
        assert error.retry_after_s == 7
    assert model.batches == [[1, 2]]


async def test_even_system_exit_in_a_lane_settles_the_waiters_and_keeps_the_lane() -> None:
    """A thread that dies silently is what makes callers wait for ever."""
    model = Model(fails=lambda items: SystemExit(3) if 1 in items else None)
    async with serving(model) as (batcher, _):
        with pytest.raises(InferenceError):
            await submit(batcher, 1)
        assert await submit(batcher, 2) == expected(2)


async def test_a_full_queue_refuses_with_a_measured_retry_after() -> None:
    """What does not fit is refused at once, whole, and told when to come back."""
    model = Model()
    async with serving(model, max_waiting=3) as (batcher, _):
        assert batcher.retry_after_s == 1.0
        await submit(batcher, 0)
        item_s = batcher.retry_after_s
        assert 0 < item_s < 1
        first = await busy(batcher, model)
        waiting = submit(batcher, 1, 2)
        await settle()
        with pytest.raises(QueueFullError) as refused:
            await submit(batcher, 3, 4)
        assert refused.value.retry_after_s == pytest.approx(2 * item_s)
        assert batcher.waiting == 2
        model.gate.set()
        await asyncio.gather(first, waiting)


async def test_queueing_is_told_apart_from_running() -> None:
    """The two times add up to the wall time of the call."""
    model = Model()
    async with serving(model) as (batcher, _):
        first = await busy(batcher, model)
        asyncio.get_running_loop().call_later(0.03, model.gate.set)
        started = asyncio.get_running_loop().time()
        outcome = await batcher.submit([1], group=1, deadline=soon())
        wall_s = asyncio.get_running_loop().time() - started
        await first
    assert 0.02 < outcome.queued_s <= wall_s
    assert outcome.ran_s >= 0
    assert outcome.queued_s + outcome.ran_s == pytest.approx(wall_s, abs=0.1)


async def test_an_answered_submission_is_held_by_nobody() -> None:
    """Neither an idle lane nor a deadline that lies ahead keeps pictures or results in memory."""

    class Picture:
        """Something that can be watched."""

    lane: Lane[Picture, Picture] = Lane(run=list)
    batcher: Batcher[Picture, Picture] = Batcher("test", [lane], max_batch=4, max_waiting=4, metrics=Metrics())
    outcome = await batcher.submit([Picture(), Picture()], group=0, deadline=soon(60))
    pictures = weakref.WeakSet(outcome.results)
    del outcome
    await until(lambda: not pictures)
    await batcher.close()


async def test_closing_runs_what_waits() -> None:
    """A drain answers everyone, refuses newcomers, and may be asked for twice."""
    model = Model()
    async with serving(model) as (batcher, _):
        first = await busy(batcher, model)
        waiting = submit(batcher, 1)
        await settle()
        closing = [asyncio.create_task(batcher.close()) for _ in range(2)]
        await settle()
        with pytest.raises(ShuttingDownError):
            await submit(batcher, 2)
        model.gate.set()
        await asyncio.gather(*closing)
        assert await first == expected(-1)
        assert await waiting == expected(1)
        await batcher.close()


async def test_closing_without_drain_fails_what_waits_and_lets_the_run_end() -> None:
    """Work that has been paid for is still delivered."""
    model = Model()
    async with serving(model) as (batcher, recorder):
        first = await busy(batcher, model)
        waiting = submit(batcher, 1, 2)
        await settle()
        closing = asyncio.create_task(batcher.close(drain=False))
        with pytest.raises(ShuttingDownError):
            await waiting
        model.gate.set()
        assert await first == expected(-1)
        await closing
    assert recorder.drops == {"shutdown": 2}


async def test_a_stuck_lane_does_not_hold_up_the_close() -> None:
    """After the grace everyone is told, also those in the run; the lane is closed if the run ever ends."""
    stuck, idle = Model(), Model()
    async with serving(stuck, idle, max_batch=1) as (batcher, _):
        stuck.gate.clear()
        idle.gate.clear()
        tasks = [submit(batcher, item) for item in range(3)]
        await begun(batcher, 2)
        idle.gate.set()
        closing = asyncio.create_task(batcher.close(grace_s=0.1))
        await asyncio.wait_for(closing, 1)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(outcome, ShuttingDownError) for outcome in outcomes) == 1
        await until(lambda: idle.is_closed)
        assert not stuck.is_closed
        await ended(stuck)


async def test_no_lane_is_closed_while_another_runs() -> None:
    """Lanes may share a session: a drain must not take it from the last run."""
    models = Model(), Model()
    async with serving(*models, max_batch=1) as (batcher, _):
        for model in models:
            model.gate.clear()
        task = submit(batcher, 1)
        await begun(batcher)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.02)
        assert not any(model.is_closed for model in models)
        for model in models:
            model.gate.set()
        assert await task == expected(1)
        await closing
        assert all(model.is_closed for model in models)


async def test_a_second_close_can_cut_a_drain_short() -> None:
    """When the process must end now, those who wait are told so."""
    model = Model()
    async with serving(model) as (batcher, _):
        first = await busy(batcher, model)
        draining = asyncio.create_task(batcher.close())
        await settle()
        await batcher.close(drain=False, grace_s=0)
        with pytest.raises(ShuttingDownError):
            await first
        await ended(model)
        await draining


async def test_a_failed_batch_is_still_retried_during_a_drain() -> None:
    """Closing does not make a neighbour's poison one's own."""
    model = Model(fails=lambda items: ValueError("poison") if 13 in items else None)
    async with serving(model) as (batcher, _):
        model.gate.clear()
        good, bad = submit(batcher, 1), submit(batcher, 13)
        await begun(batcher)
        closing = asyncio.create_task(batcher.close())
        await settle()
        model.gate.set()
        await closing
        assert await good == expected(1)
        with pytest.raises(InferenceError):
            await bad


async def test_a_lane_that_fails_to_close_does_not_hold_up_the_close() -> None:
    """The failure is logged, the thread ends."""

    def close() -> None:
        raise RuntimeError("device lost")

    lane: Lane[int, str] = Lane(run=lambda items: [str(item) for item in items], close=close)
    async with serving(lanes=[lane]) as (batcher, _):
        assert await submit(batcher, 1) == ["1"]


async def test_the_oldest_run_has_an_age() -> None:
    """A watchdog sees a run that hangs."""
    model = Model()
    async with serving(model) as (batcher, _):
        assert batcher.oldest_run_s() == 0
        first = await busy(batcher, model)
        await asyncio.sleep(0.02)
        assert 0.01 < batcher.oldest_run_s() < 1
        model.gate.set()
        await first
        assert batcher.oldest_run_s() == 0


async def test_a_probe_tells_when_a_failed_model_answers_again() -> None:
    """No probe while the last run was well; one for all callers after a failure."""
    is_broken = True
    model = Model(fails=lambda _: RuntimeError("device lost") if is_broken else None)
    async with serving(model, probe_items=[100]) as (batcher, _):
        assert await batcher.probe()
        assert model.batches == []
        with pytest.raises(InferenceError):
            await submit(batcher, 1)
        assert await asyncio.gather(*(batcher.probe() for _ in range(5))) == [False] * 5
        assert model.batches == [[1], [100]]
        is_broken = False
        assert await batcher.probe()
        assert await batcher.probe()
        assert model.batches == [[1], [100], [100]]


async def test_without_probe_items_the_last_run_speaks() -> None:
    """Nothing to probe with: only a run that passes clears the failure."""
    model = Model(fails=lambda items: RuntimeError("device lost") if 1 in items else None)
    async with serving(model) as (batcher, _):
        with pytest.raises(InferenceError):
            await submit(batcher, 1)
        assert not await batcher.probe()
        await submit(batcher, 2)
        assert await batcher.probe()


async def test_a_probe_ends_with_the_batcher() -> None:
    """Closing settles the probe like any caller; no task is left."""
    model = Model(fails=lambda _: RuntimeError("device lost"))
    async with serving(model, probe_items=[100]) as (batcher, _):
        with pytest.raises(InferenceError):
            await submit(batcher, 1)
        model.gate.clear()
        probing = asyncio.create_task(batcher.probe())
        await begun(batcher)
        await batcher.close(grace_s=0)
        assert not await probing
        assert len(asyncio.all_tasks()) == 1
        await ended(model)


async def test_a_probe_asked_for_in_the_turn_of_the_close_does_not_run() -> None:
    """Nothing enters the queue of a closed batcher."""
    model = Model(fails=lambda _: RuntimeError("device lost"))
    async with serving(model, probe_items=[100]) as (batcher, _):
        with pytest.raises(InferenceError):
            await submit(batcher, 1)
        probing = asyncio.create_task(batcher.probe())
        closing = asyncio.create_task(batcher.close())
        assert not await probing
        await closing
    assert model.batches == [[1]]


async def test_a_batcher_that_never_ran_closes_its_lanes() -> None:
    """What a lane holds is freed though nobody asked for a run."""
    model = Model()
    async with serving(model) as (batcher, _):
        assert batcher.retry_after_s > 0
    assert model.is_closed


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"max_waiting": 0}, {"lanes": []}])
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    """A batcher that could never run is not built."""
    options = {"max_batch": 1, "max_waiting": 1, "lanes": [Model().lane], **options}
    with pytest.raises(ValueError, match="at least 1"):
        Batcher("test", options.pop("lanes"), metrics=Metrics(), **options)


def test_a_run_that_outlives_its_loop_is_harmless() -> None:
    """A loop that ends without a close is not held up by a lane's report; the lane is closed."""
    model = Model()
    lane = model.lane

    async def leave() -> None:
        batcher: Batcher[int, str] = Batcher("outlived", [lane], max_batch=1, max_waiting=1, metrics=Metrics())
        model.gate.clear()
        task = submit(batcher, 1)
        await begun(batcher)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ServiceError):
            await task

    asyncio.run(leave())
    model.gate.set()
    asyncio.run(until(lambda: model.is_closed))
