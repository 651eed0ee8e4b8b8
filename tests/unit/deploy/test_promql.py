"""A query that asks for what does not exist is found out; else no test of a dashboard means anything."""

from __future__ import annotations

import pytest

from tests.support.promql import Exposition

EXPOSITION = Exposition.parse(
    '# TYPE a counter\na_total{code="x",status="200"} 1\na_total{code="y",status="200"} 1\n'
    '# TYPE h histogram\nh_bucket{le="1"} 1\nh_bucket{le="+Inf"} 1\nh_count 1\nh_sum 1\n'
)


@pytest.mark.parametrize(
    "query",
    [
        'sum by (job, code) (rate(a_total{job=~"$job", status=~"5.."}[$__rate_interval]))',
        'a_total{code=~"x|y"} / on (instance) group_left () h_count',
        "histogram_quantile(0.5, sum by (le) (rate(h_bucket[1m])))",
        "up == 0",
    ],
)
def test_what_exists_is_no_fault(query: str) -> None:
    assert EXPOSITION.faults(query) == []


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("rate(b_total[1m])", "no metric b_total"),
        ("sum(b_total)", "no metric b_total"),
        ('a_total{model="x"}', "no label model of a_total"),
        ('a_total{code="z"}', 'no series a_total{code="z"}'),
        ('a_total{code=~"x|z"}', 'no series a_total{code=~"x|z"}'),
        ("sum by (le) (a_total)", "no label le in a_total"),
        ("a_total / on (code) h_count", "no label code in h_count"),
        ("h", "no metric h"),
    ],
)
def test_what_does_not_is(query: str, fault: str) -> None:
    assert EXPOSITION.faults(query) == [fault]


def test_what_is_no_query_is_an_error() -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        EXPOSITION.faults("sum by (")
