"""A histogram shows what prometheus-client's would."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from jetface.metrics import LoopHistogram

BOUNDS = (0, 0.1, 1, 2.5, 10)
NUMBERS = st.one_of(st.sampled_from(BOUNDS), st.floats(0, 20))


def exposed(registry: CollectorRegistry) -> str:
    """What is scraped, whenever it was made."""
    return re.sub(r"(_created\S*) .*", r"\1 then", generate_latest(registry).decode())


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", 'y"\\\n']), NUMBERS)))
def test_series_are_exposed_as_the_library_exposes_them(observed: list[tuple[str, str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = LoopHistogram("taken", "Seconds.", ["model", "kind"], buckets=BOUNDS, registry=ours)
    library = Histogram("taken", "Seconds.", ["model", "kind"], buckets=BOUNDS, registry=theirs)
    for model, kind, value in observed:
        histogram.labels(model, kind).observe(value)
        library.labels(model, kind).observe(value)
    assert exposed(ours) == exposed(theirs)


@given(st.lists(NUMBERS))
def test_one_without_labels_is_there_from_the_start(observed: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = LoopHistogram("faces", "Found.", buckets=BOUNDS, registry=ours)
    library = Histogram("faces", "Found.", buckets=BOUNDS, registry=theirs)
    for value in observed:
        histogram.observe(value)
        library.observe(value)
    assert exposed(ours) == exposed(theirs)


def test_labels_are_as_many_as_their_names() -> None:
    histogram = LoopHistogram("taken", "Seconds.", ["model"], buckets=BOUNDS, registry=CollectorRegistry())
    assert histogram.labels("a") is histogram.labels("a")
    with pytest.raises(ValueError, match="has the labels"):
        histogram.labels()


def test_a_name_is_taken_once() -> None:
    registry = CollectorRegistry()
    LoopHistogram("taken", "Seconds.", buckets=BOUNDS, registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Histogram("taken", "Seconds.", registry=registry)
