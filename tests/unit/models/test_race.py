"""Which backend is chosen, and at what cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pytest

from jetface.domain import Batch, Tensor
from jetface.models.race import LEAST_GAIN_OF_FREE_CANVAS, fastest, make_blob, measure_ms


@dataclass
class Sleeper:
    """A backend that takes its time."""

    run_s: float
    num_runs: int = 0
    max_batch_size: int = 1

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        time.sleep(self.run_s)
        self.num_runs += 1
        return (np.asarray(batch, np.float32),)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("times_ms", "chosen"),
    [
        ({"first": 10.0}, "first"),
        ({"first": 10.0, "second": 11.0}, "first"),
        ({"first": 10.0, "second": 9.6}, "first"),
        ({"first": 10.0, "second": 9.0}, "second"),
        ({"first": 10.0, "second": 9.0, "third": 5.0}, "third"),
    ],
    ids=["alone", "slower", "noise", "faster", "fastest"],
)
def test_the_first_is_left_for_a_gain_worth_it(times_ms: dict[str, float], chosen: str) -> None:
    assert fastest(times_ms) == chosen


def test_where_canvases_vary_the_gain_has_to_be_larger() -> None:
    times_ms = {"first": 10.0, "second": 8.0}
    assert (fastest(times_ms), fastest(times_ms, least_gain=LEAST_GAIN_OF_FREE_CANVAS)) == ("second", "first")


def test_backends_take_turns_and_their_least_time_counts() -> None:
    backends: dict[str, Sleeper] = {"slow": Sleeper(0.01), "quick": Sleeper(0.002)}
    times_ms = measure_ms(backends, make_blob((32, 64)))
    assert fastest(times_ms) == "quick"
    assert 2 <= times_ms["quick"] < 10 <= times_ms["slow"]
    assert backends["slow"].num_runs == backends["quick"].num_runs <= 21


def test_slow_backends_are_measured_within_a_second() -> None:
    started = time.perf_counter()
    backends: dict[str, Sleeper] = {"slow": Sleeper(0.15), "slower": Sleeper(0.16)}
    measure_ms(backends, make_blob((32, 32)))
    assert time.perf_counter() - started < 1.2
    assert backends["slow"].num_runs == 3


def test_a_blob_is_one_item_of_the_canvas() -> None:
    blob = make_blob((32, 64))
    assert (blob.shape, blob.dtype) == ((1, 3, 32, 64), np.dtype(np.float32))
