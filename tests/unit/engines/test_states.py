"""What is told of a build as it goes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.engines.plan import ENGINE_STATES, Announcer, remaining_s
from jetface.metrics import ENGINE_STATES as SHOWN


def test_metrics_show_every_state() -> None:
    assert SHOWN == ENGINE_STATES


@given(fraction=st.floats(0, 1), elapsed_s=st.floats(0, 1e5))
def test_what_is_left_is_never_negative_and_nothing_at_the_end(fraction: float, elapsed_s: float) -> None:
    left_s = remaining_s(fraction, elapsed_s)
    assert (left_s is None) == (fraction < 0.05)
    assert left_s is None or left_s >= 0
    assert remaining_s(1, elapsed_s) == 0


def test_half_way_as_much_is_left_as_has_passed() -> None:
    assert remaining_s(0.5, 95) == pytest.approx(95)


@given(st.lists(st.tuples(st.floats(0, 0.05), st.floats(0, 20)), max_size=200))
def test_the_log_hears_at_most_once_in_ten_seconds_and_once_a_tenth(steps: list[tuple[float, float]]) -> None:
    announcer, fraction, elapsed_s = Announcer(), 0.0, 0.0
    told: list[tuple[float, float]] = []
    for more, took_s in steps:
        fraction, elapsed_s = min(1.0, fraction + more), elapsed_s + took_s
        if announcer.is_due(fraction, elapsed_s):
            told.append((fraction, elapsed_s))
    for (former, former_s), (later, later_s) in itertools.pairwise(told):
        assert later >= former + 0.1
        assert later_s >= former_s + 10
    assert bool(told) == bool(steps)
