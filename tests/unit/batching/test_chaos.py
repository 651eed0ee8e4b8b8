"""Hundreds of callers who leave, come late and are let down: every call ends, and none gets another's answer."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import structlog.testing

from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.errors import DeadlineExceededError, InferenceError, ModelBuildingError, QueueFullError, ShuttingDownError
from tests.support.recorder import Recorder

NUM_CALLERS = 300
Item = tuple[int, int, int]
"""Caller, position, key."""


@dataclass
class Books:
    """What lanes say happened, from their threads, under a lock; and what was asked for."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    runs_by_item: Counter[Item] = field(default_factory=Counter)
    num_faults: int = 0
    """Runs that failed."""
    num_in_failed_batches: int = 0
    """Items of those that were batches of several."""
    admitted: Counter[Item] = field(default_factory=Counter)
    num_refused_late: int = 0


class TreacherousLane:
    """Takes its time, raises of all kinds, returns wrong counts; otherwise answers each item with itself."""

    def __init__(self, books: Books, seed: int, fault_rate: float) -> None:
        self._books = books
        self._random = random.Random(seed)
        self._fault_rate = fault_rate
        self._thread: int | None = None
        self.num_closes = 0

    def run(self, items: Sequence[Item]) -> Sequence[object]:
        """Run one batch."""
        assert self._thread in (None, threading.get_ident()), "a lane changed its thread"
        self._thread = threading.get_ident()
        assert len({key for _, _, key in items}) == 1, "keys were mixed"
        assert 1 <= len(items) <= 8
        time.sleep(self._random.uniform(0, 0.002))
        is_faulty = self._random.random() < self._fault_rate
        with self._books.lock:
            self._books.runs_by_item.update(items)
            self._books.num_faults += is_faulty
            if is_faulty and len(items) > 1:
                self._books.num_in_failed_batches += len(items)
        if not is_faulty:
            return tuple(items)
        return self._fail(items)

    def _fail(self, items: Sequence[Item]) -> Sequence[object]:
        fault = self._random.randrange(6)
        if fault == 0:
            return list(items)[1:]
        if fault == 1:
            return [*items, items[0]]
        raise (
            RuntimeError("device lost"),
            InferenceError("The run failed."),
            ModelBuildingError("The engine is being built.", retry_after_s=1),
            SystemExit(1),
        )[fault - 2]

    def close(self) -> None:
        """Count the close."""
        assert self._thread in (None, threading.get_ident())
        self.num_closes += 1


EXPECTED_ERRORS = (InferenceError, ModelBuildingError, DeadlineExceededError, QueueFullError, ShuttingDownError)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("fault_rate", [0.0, 0.3])
async def test_every_call_ends_and_none_gets_anothers_answer(seed: int, fault_rate: float) -> None:
    """Random cancellations, deadlines, faults and a close in the middle or at the end."""
    with structlog.testing.capture_logs():
        await _run_chaos(seed, fault_rate)


async def _run_chaos(seed: int, fault_rate: float) -> None:
    chance = random.Random(seed)
    books, recorder = Books(), Recorder("chaos")
    num_lanes = chance.choice([1, 2, 4])
    lanes = [TreacherousLane(books, seed * 10 + index, fault_rate) for index in range(num_lanes)]

    def admit(item: Item) -> int:
        books.admitted[item] += 1  # the batcher asks for the key of each item it takes, once
        return item[2]

    batcher: Batcher[Item, object] = Batcher(
        "chaos",
        [Lane(run=lane.run, close=lane.close) for lane in lanes],
        max_batch=chance.choice([1, 3, 8]),
        max_waiting=chance.choice([20, 1000]),
        key=admit,
        metrics=recorder.metrics,
        probe_items=[(-1, 0, 0)],
    )
    loop = asyncio.get_running_loop()

    async def call(caller: int) -> None:
        await asyncio.sleep(chance.uniform(0, 0.3))
        items = [(caller, position, chance.randrange(3)) for position in range(chance.choice([0, 1, 1, 2, 5, 12]))]
        within_s = chance.choice([-1, 0.003, 0.02, 10, 10, 10, 10])
        try:
            outcome = await batcher.submit(items, group=caller // 2, deadline=loop.time() + within_s)
        except DeadlineExceededError:
            if items and items[0] not in books.admitted:
                books.num_refused_late += len(items)
            raise
        assert outcome.results == items
        assert outcome.queued_s >= 0
        assert outcome.ran_s >= 0

    async def meddle() -> None:
        while True:
            await asyncio.sleep(0.005)
            chance.choice(callers).cancel()
            await batcher.probe(timeout_s=chance.choice([0.001, 1.0]))

    callers = [asyncio.create_task(call(caller)) for caller in range(NUM_CALLERS)]
    meddler = asyncio.create_task(meddle())
    if chance.random() < 0.5:
        await asyncio.sleep(chance.uniform(0.05, 0.25))
    else:
        await asyncio.wait(callers)
    meddler.cancel()
    await batcher.close(drain=chance.random() < 0.5, grace_s=5)
    outcomes = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 5)
    await asyncio.gather(meddler, return_exceptions=True)

    for outcome in outcomes:
        assert outcome is None or isinstance(outcome, (*EXPECTED_ERRORS, asyncio.CancelledError)), repr(outcome)
    errors = [outcome for outcome in outcomes if isinstance(outcome, EXPECTED_ERRORS)]
    assert len({id(error) for error in errors}) == len(errors), "an error was shared"
    assert batcher.waiting == batcher.running == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("chaos")]
    assert [lane.num_closes for lane in lanes] == [1] * num_lanes

    num_items_run = sum(books.runs_by_item.values())
    num_rerun = (
        recorder.num_waited + sum(recorder.drops.values()) - books.num_refused_late - sum(books.admitted.values())
    )
    assert recorder.num_waited == num_items_run
    assert 0 <= num_rerun <= books.num_in_failed_batches
    assert recorder.num_failed == books.num_faults
    if not fault_rate:
        assert recorder.num_ran == num_items_run
