"""How far a build is: whatever TensorRT says, the fraction grows, and stays between 0 and 1."""

from __future__ import annotations

import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.runtimes.engine_kit import BuildProgress
from jetface.runtimes.tensorrt_build import BuildWatch, ProgressTree

names = st.sampled_from(["Building engine", "Building engine from subgraph", "Computing profile costs", "x", "y"])
events = st.one_of(
    st.tuples(st.just("start"), names, st.none() | names, st.integers(-1, 5)),
    st.tuples(st.just("step"), names, st.integers(-1, 9)),
    st.tuples(st.just("finish"), names),
)


@given(st.lists(events, max_size=60))
def test_whatever_is_said_the_fraction_never_goes_back(story: list[tuple[object, ...]]) -> None:
    tree = ProgressTree()
    former = tree.fraction
    assert former == 0
    for name, *arguments in story:
        getattr(tree, str(name))(*arguments)
        assert former <= tree.fraction <= 1
        former = tree.fraction


def test_steps_of_a_phase_are_worth_the_same() -> None:
    tree = ProgressTree()
    tree.start("x", None, 4)
    fractions = []
    for step in range(4):
        tree.step("x", step)
        fractions.append(tree.fraction)
    assert fractions == pytest.approx([0.225, 0.45, 0.675, 0.9])


def test_a_phase_within_a_step_is_worth_that_step() -> None:
    tree = ProgressTree()
    tree.start("x", None, 2)
    tree.step("x", 0)
    tree.start("y", "x", 2)
    assert tree.phase == "y"
    tree.step("y", 0)
    assert tree.fraction == pytest.approx(0.9 * 0.75)
    tree.finish("y")
    tree.step("x", 1)
    assert tree.fraction == pytest.approx(0.9)
    tree.finish("x")
    assert tree.phase == ""
    assert tree.fraction == pytest.approx(0.9)


def test_the_phase_that_takes_minutes_is_worth_nine_tenths_of_those_around_it() -> None:
    """As TensorRT tells it: preparing is done in seconds, then kernels are timed, profile by profile."""
    tree = ProgressTree()
    tree.start("Building engine", None, 6)
    for step in range(4):
        tree.step("Building engine", step)
    before = tree.fraction
    tree.start("Building engine from subgraph", "Building engine", 1)
    tree.start("Computing profile costs", "Building engine from subgraph", 2)
    tree.step("Computing profile costs", 0)
    halfway = tree.fraction
    tree.step("Computing profile costs", 1)
    assert before < 0.1
    assert halfway == pytest.approx((before + tree.fraction) / 2)
    assert tree.fraction > 0.75
    for name in ("Computing profile costs", "Building engine from subgraph", "Building engine"):
        tree.finish(name)
    assert tree.fraction == pytest.approx(0.9)


def test_a_second_attempt_goes_on_where_the_first_ended() -> None:
    tree = ProgressTree()
    for expected in (0.9, 0.99, 0.999):
        tree.start("x", None, 1)
        tree.step("x", 0)
        tree.finish("x")
        assert tree.fraction == pytest.approx(expected)


def test_what_was_never_started_is_no_news() -> None:
    tree = ProgressTree()
    tree.step("x", 3)
    tree.finish("x")
    assert tree.fraction == 0


class TestWatch:
    def test_reports_hundredths(self) -> None:
        told: list[BuildProgress] = []
        watch = BuildWatch(told.append)
        assert watch.tell(lambda tree: tree.start("x", None, 1000))
        for step in range(1000):
            assert watch.tell(partial(ProgressTree.step, name="x", step=step))
        assert 80 <= len(told) <= 100
        watch.done()
        assert told[-1].fraction == 1

    def test_ends_the_build_when_the_listener_raises_and_asks_it_no_more(self) -> None:
        told: list[BuildProgress] = []

        def listen(progress: BuildProgress) -> None:
            told.append(progress)
            raise SystemExit

        watch = BuildWatch(listen)
        assert not watch.tell(lambda tree: tree.start("x", None, 1))
        assert not watch.tell(lambda tree: tree.step("x", 0))
        assert isinstance(watch.error, SystemExit)
        assert len(told) == 1

    def test_takes_events_of_several_threads(self) -> None:
        told: list[float] = []
        watch = BuildWatch(lambda progress: told.append(progress.fraction))
        watch.tell(lambda tree: tree.start("x", None, 400))

        def work(first: int) -> None:
            for step in range(first, 400, 4):
                watch.tell(partial(ProgressTree.step, name="x", step=step))

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert told == sorted(told)
        assert told[-1] > 0.85
