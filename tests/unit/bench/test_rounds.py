"""The bench's arithmetic: how sure a median is, when rounds are enough, what is told of the machine."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from tests.bench.load import OtherLoad, Sample, Sampler, other_load
from tests.bench.report import Ratio, Report, Row
from tests.bench.rounds import are_enough, medians, ratios_of, spread_of_median


def row(scenario: str, clients: int, rate: float, *, p50_ms: float = math.nan, cpu_ms: float = math.nan) -> Row:
    return Row(scenario, clients, rate, p50_ms, math.nan, cpu_ms, math.nan)


class TestSpread:
    """Of a median."""

    def test_five_rounds_cannot_tell(self) -> None:
        assert spread_of_median([1.0] * 5) is None

    def test_six_lie_around_it_from_the_least_to_the_largest(self) -> None:
        assert spread_of_median([1.1, 0.9, 1.0, 1.0, 1.0, 1.0]) == pytest.approx(0.1)

    def test_of_more_the_outermost_do_not_count(self) -> None:
        """Of 9 to 11 values the second on either side; so tables of the sign test have it."""
        assert spread_of_median([9.0, 0.1, *[1.0] * 7]) == 0
        assert spread_of_median([1.2, 0.8, 9.0, 0.1, *[1.0] * 7]) == pytest.approx(0.2)

    def test_the_interval_holds_the_true_median_nineteen_times_of_twenty(self) -> None:
        chance = random.Random(0)
        held = 0
        for _ in range(2000):
            values = [chance.lognormvariate(0, 0.2) for _ in range(12)]
            ordered = sorted(values)
            held += ordered[2] <= 1 <= ordered[9]
            assert spread_of_median(values) == pytest.approx((ordered[9] - ordered[2]) / (ordered[5] + ordered[6]))
        assert held / 2000 >= 0.95


class TestEnough:
    """Rounds."""

    def test_one_is_begun_whatever_the_bound(self) -> None:
        assert not are_enough({}, most_rounds=1)

    def test_they_end_when_all_medians_are_settled(self) -> None:
        calm = [1.0, 1.01, 0.99, 1.0, 1.02, 1.0]
        assert are_enough({"a": calm, "b": calm}, most_rounds=12)
        assert not are_enough({"a": calm, "b": [*calm[:5], 2.0]}, most_rounds=12)
        assert not are_enough({"a": calm[:5]}, most_rounds=12)

    def test_they_end_at_the_bound(self) -> None:
        wild = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]
        assert are_enough({"a": wild}, most_rounds=6)
        assert not medians({"a": wild})["a"].is_settled


class TestRatios:
    """Of one round."""

    def test_what_was_not_measured_has_none(self) -> None:
        rows = {
            (each.scenario, each.clients): each
            for each in (
                row("one", 1, 30, p50_ms=30, cpu_ms=30),
                row("one", 4, 60, cpu_ms=24),
                row("floor, one", 2, 50, cpu_ms=40),
                row("uniface, one", 1, 10, p50_ms=100, cpu_ms=120),
            )
        }
        assert ratios_of(rows, cores=2, peers=["uniface"]) == pytest.approx(
            {
                "one face, 4 clients: over the floor": 1.2,
                "one face, 4 clients: CPU ms a picture over the floor's": 0.6,
                "one client: p50 over uniface's": 0.3,
                "one, 4 clients: over uniface": 6.0,
                "one, one client: CPU ms a picture over uniface's": 0.25,
            }
        )


class TestLoad:
    """What else ran."""

    def test_it_is_what_was_busy_and_not_the_bench_s(self) -> None:
        other, ended = ("other", 7, 0.0), ("ended", 8, 0.0)
        samples = [
            Sample(0.0, 100.0, 50.0, 1.0, {other: 10.0, ended: 3.0}),
            Sample(10.0, 115.0, 60.0, 2.0, {other: 14.0, ended: 3.0}),
            Sample(20.0, 135.0, 70.0, 6.0, {other: 23.0, ("new", 9, 15.0): 1.0}),
        ]
        load = other_load(samples, num_processors=2)
        assert load == OtherLoad(0.375, 0.5, 2.0, 6.0, {"other": 13 / 40, "new": 1 / 40})
        assert "38% of the processors (at most 50%; other 32%, new 2%)" in load.sentence()

    def test_one_sample_says_nothing(self) -> None:
        assert other_load([Sample(0.0, 0.0, 0.0, 0.0)], num_processors=2) is None

    def test_counters_that_step_give_no_load_below_none(self) -> None:
        samples = [Sample(0.0, 0.0, 0.0, 0.0), Sample(1.0, 0.99, 1.0, 0.0)]
        assert other_load(samples, num_processors=1) == OtherLoad(0.0, 0.0, 0.0, 0.0, {})

    def test_this_machine_s_counters_can_be_read(self) -> None:
        with Sampler() as sampler:
            pass
        load = sampler.load()
        assert load is not None
        assert 0 <= load.median_share <= load.most_share


class TestReport:
    """The table and the JSON."""

    def report(self, *ratios: Ratio, share: float = 0.01) -> Report:
        load = OtherLoad(share, share, 1.0, 1.0, {})
        names = (f"ratio {number}" for number in range(len(ratios)))
        return Report(
            2, "abc", len(ratios), load, [row("floor, one", 2, 50, cpu_ms=40)], dict(zip(names, ratios, strict=True))
        )

    def test_it_says_that_all_are_settled(self) -> None:
        table = self.report(Ratio(1.0, 0.02), Ratio(2.0, 0.05)).table()
        assert "Medians of 2 rounds." in table
        assert "Under 5% for all." in table
        assert "| ratio 1 | 2.00 | 5.0% |" in table

    def test_it_says_which_are_not(self) -> None:
        table = self.report(Ratio(1.0, 0.02), Ratio(2.0, 0.08)).table()
        assert "**Not under 5%** for 1 of 2" in table
        assert "| ratio 1 | 2.00 | **8.0%** |" in table

    def test_it_says_that_rounds_were_too_few(self) -> None:
        table = self.report(Ratio(1.0)).table()
        assert "Medians of 1 round." in table
        assert "It takes 6 rounds to tell." in table
        assert "| ratio 0 | 1.00 | - |" in table

    def test_what_was_not_measured_is_a_dash(self) -> None:
        assert "| floor, one | 2 | 50.0 | - | - | 40.0 | - |  |" in self.report().table()

    @pytest.mark.parametrize(("share", "is_busy"), [(0.04, False), (0.3, True)])
    def test_it_says_that_the_machine_was_busy(self, share: float, *, is_busy: bool) -> None:
        assert ("The machine was busy" in self.report(share=share).table()) == is_busy

    def test_json_has_spread_and_load(self, tmp_path: Path) -> None:
        self.report(Ratio(1.0, 0.02)).write(tmp_path)
        told = json.loads((tmp_path / "report.json").read_text())
        assert told["ratios"] == {"ratio 0": {"value": 1.0, "spread": 0.02}}
        assert told["load"]["median_share"] == 0.01
