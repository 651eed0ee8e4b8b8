"""The scaler that `tests/bench/scaling.py` simulates decides as Kubernetes' documents say, and suits the manifests."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from tests.bench.scaling import Load, Scaler, Speed, simulate
from tests.support.manifests import K8S, find, render, require_kubectl
from tests.support.promql import History


@pytest.fixture
def spec() -> dict[str, Any]:
    """Two to twenty pods, at most 1.5 in flight each."""
    require_kubectl()
    found: dict[str, Any] = copy.deepcopy(find(render(K8S / "overlays/cpu"), "ScaledObject", "jetface")["spec"])
    return found


def history(in_flight: float, refused: float = 0.0, until_s: float = 60) -> History:
    """Samples of a minute in which so many requests were in flight, and of each 100 so many were refused."""
    found = History()
    for at_s in np.arange(0, until_s + 1, 15.0):
        samples: list[tuple[str, dict[str, str], float]] = [
            ("jetface_request_seconds_sum", {}, in_flight * at_s),
            ("jetface_requests_total", {}, 100 * at_s),
            ("jetface_refusals_total", {"code": "queue_full"}, refused * at_s),
        ]
        found.add(at_s, {"namespace": "jetface"}, samples)
    return found


@pytest.mark.parametrize(
    ("in_flight", "replicas", "wanted"),
    [
        pytest.param(9.0, 4, 6, id="the formula"),
        pytest.param(6.5, 4, 4, id="within a tenth of the target nothing is done"),
        pytest.param(90.0, 4, 8, id="at most twice, or four more"),
        pytest.param(90.0, 2, 6, id="four more where that is more"),
        pytest.param(90.0, 15, 20, id="the most there may be"),
        pytest.param(0.1, 3, 2, id="the fewest there may be"),
        pytest.param(1.5, 8, 6, id="a quarter fewer at most"),
    ],
)
def test_counts(spec: dict[str, Any], in_flight: float, replicas: int, wanted: int) -> None:
    assert Scaler(spec).decide(history(in_flight), 60, replicas, replicas) == wanted


def test_refusals_double_the_pods_whatever_is_in_flight(spec: dict[str, Any]) -> None:
    assert Scaler(spec).decide(history(6.0, refused=2), 60, 4, 4) == 8
    assert Scaler(spec).decide(history(6.0, refused=0.5), 60, 4, 4) == 4


def test_without_metrics_nothing_is_taken_away(spec: dict[str, Any]) -> None:
    assert Scaler(spec).decide(History(), 60, 7, 7) == 7


def test_a_dip_of_less_than_five_minutes_takes_no_pod_away(spec: dict[str, Any]) -> None:
    scaler = Scaler(spec)
    assert scaler.decide(history(12.0), 60, 8, 8) == 8
    for at_s in range(75, 360, 15):
        assert scaler.decide(history(1.0, until_s=at_s), at_s, 8, 8) == 8
    assert scaler.decide(history(1.0, until_s=375), 375, 8, 8) == 6


def test_pods_swing_where_the_target_lets_requests_wait(spec: dict[str, Any]) -> None:
    """Why the target is below what a pod serves at once."""
    load = Load("three pods full", 1200, lambda _: 3.0)

    def changes(threshold: str) -> int:
        spec["triggers"][0]["metadata"]["threshold"] = threshold
        outcome = simulate(load, Speed(20, 2), spec, start_s=30, grace_s=35)
        assert outcome.num_lost == 0
        return int(np.count_nonzero(np.diff([count for _, count in outcome.pods])))

    assert changes("1.5") <= 2
    assert changes("4") >= 6
