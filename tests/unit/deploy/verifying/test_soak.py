"""What is made of the curves of a soak."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifying.caller import Sample
from verifying.soak import curves, growth_percent, to_point


class TestGrowth:
    @given(value=st.floats(1, 1e12), count=st.integers(7, 300))
    def test_a_flat_line_does_not_grow(self, value: float, count: int) -> None:
        assert growth_percent([value] * count) == 0

    @given(start=st.floats(1e8, 1e10), percent=st.floats(1, 50), count=st.integers(50, 300))
    def test_a_steady_leak_shows(self, start: float, percent: float, count: int) -> None:
        """Nearly all of it: the warm-up, and half of each window at the ends, are not seen."""
        values = [start * (1 + percent / 100 * number / (count - 1)) for number in range(count)]
        found = growth_percent(values)
        assert found is not None
        assert 0.4 * percent < found < percent

    @given(steady=st.floats(1e8, 1e10), first=st.floats(1, 1e8), count=st.integers(30, 300))
    def test_what_fills_during_the_warm_up_is_no_leak(self, steady: float, first: float, count: int) -> None:
        values = [first] * (count // 6) + [steady] * (count - count // 6)
        assert growth_percent(values) == 0

    @pytest.mark.parametrize("count", [0, 1, 5])
    def test_too_few_values_tell_nothing(self, count: int) -> None:
        assert growth_percent([1.0] * count) is None


class TestCurves:
    def test_what_a_machine_does_not_tell_is_absent(self) -> None:
        found = curves([{"minute": 0.0}] * 20, is_judged=True)
        assert set(found.values()) == {None}

    def test_memory_that_is_left_shrinks_when_something_takes_it(self) -> None:
        points = [{"available_bytes": 100.0 - number, "throttled": float(number > 9)} for number in range(20)]
        found = curves(points, is_judged=True)
        assert found["available_loss_percent"] == pytest.approx(100 * (1 - 82 / 95), abs=0.8)
        assert (found["available_min_bytes"], found["throttled_share"]) == (81, 0.5)

    def test_a_short_soak_is_not_judged(self) -> None:
        points = [{"rss_bytes": 100.0 + number, "available_bytes": 5.0} for number in range(20)]
        found = curves(points, is_judged=False)
        assert found["rss_growth_percent"] is None
        assert found["available_loss_percent"] is None
        assert found["rss_growth_unjudged_percent"] > 0


def test_a_point_is_the_worst_of_zones_and_the_sum_of_workers() -> None:
    samples = [
        Sample("process_resident_memory_bytes", {"worker": "0"}, 1e9),
        Sample("process_resident_memory_bytes", {"worker": "1"}, 2e9),
        Sample("jetface_device_temperature_celsius", {"zone": "tj"}, 70.0),
        Sample("jetface_device_temperature_celsius", {"zone": "cpu"}, 60.0),
        Sample("jetface_device_clock_hertz", {"clock": "cpu"}, 2.2e9),
        Sample("jetface_device_clock_hertz", {"clock": "gpu"}, 1.3e9),
        Sample("jetface_device_power_watts", {"rail": "VDD_GPU"}, 12.0),
        Sample("jetface_requests_total", {}, 5.0),
    ]
    assert to_point(samples) == {"rss_bytes": 3e9, "celsius": 70.0, "gpu_hertz": 1.3e9, "watts": 12.0}
