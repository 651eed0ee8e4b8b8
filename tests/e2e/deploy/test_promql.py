"""A query that asks for what does not exist is found out; else no test of a dashboard means anything."""

from __future__ import annotations

import pytest

from tests.support.promql import Exposition, History

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


class TestHistory:
    """Values are those that Prometheus' documents and its `extrapolatedRate` give."""

    @staticmethod
    def counted(*values: float, interval_s: float = 15, pod: str = "a") -> History:
        history = History()
        for number, value in enumerate(values):
            history.scrape(number * interval_s, {"pod": pod}, f"# TYPE a counter\na_total {value}\n")
        return history

    def test_a_rate_is_the_slope(self) -> None:
        assert self.counted(100, 130, 160, 190, 220).value("rate(a_total[1m])", 60) == pytest.approx(2)

    def test_a_restart_is_no_loss(self) -> None:
        assert self.counted(100, 130, 160, 30, 60).value("rate(a_total[1m])", 60) == pytest.approx(2)

    def test_a_young_series_counts_for_the_time_that_it_was_there(self) -> None:
        """Two samples in a minute: extrapolated by half of their distance, and not before it was zero."""
        assert self.counted(30, 60).value("rate(a_total[1m])", 15) == pytest.approx(30 * (15 + 7.5 + 0) / 15 / 60)
        assert self.counted(5).value("rate(a_total[1m])", 0) is None

    def test_sums_and_operators(self) -> None:
        history = self.counted(0, 30, 60, 90, 120)
        for number in range(5):
            history.add(number * 15, {"pod": "b"}, [("a_total", {}, 15 * number), ("limit", {"of": "x"}, 3)])
        assert history.value("sum(rate(a_total[1m]))", 60) == pytest.approx(3)
        assert history.value('sum(rate(a_total{pod="b"}[1m])) > bool 0.5 * sum(limit{of="x"})', 60) == 0
        assert history.value("(sum(none) or vector(0)) + 1", 60) == 1
        assert history.value("sum(none) * 2", 60) is None

    def test_what_is_not_known_is_said(self) -> None:
        for query in ("histogram_quantile(0.5, a)", 'a{b=~"c"}', "max(a)"):
            with pytest.raises(ValueError, match="not known here"):
                self.counted(1).value(query, 0)
