"""A steady load for a while: what of it fails, and how memory, heat and clocks go."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import click
import httpx

from verifying.caller import Caller, Sample, Target
from verifying.drawing import Named

_MOST_POINTS = 240
"""Of the curves; a point a few seconds at least."""

_LEAST_INTERVAL_S = 0.2
_USUAL_INTERVAL_S = 5.0

_WARM_UP_SHARE = 0.2
"""Of the soak: caches, arenas and buckets fill; growth is judged from its end on."""

LEAST_JUDGED_S = 600.0
"""A shorter soak tells no leak from what fills at the start."""

_BACK_OFF_S = 0.05


@dataclass(slots=True)
class _Counts:
    """What callers saw; each thread has its own."""

    answered: int = 0
    refused: int = 0
    failed: int = 0
    reason: str = ""
    latencies_ms: list[float] = field(default_factory=list)


def soak(target: Target, pictures: Sequence[Named], *, seconds: float, num_callers: int) -> dict[str, Any]:
    """Let callers post pictures, one after the other each, and read `/metrics` meanwhile.

    Raises:
        click.ClickException: `/metrics` is not answered.
    """
    is_over = threading.Event()
    counts = [_Counts() for _ in range(num_callers)]
    threads = [
        threading.Thread(target=_call, args=(target, pictures[number % len(pictures) :], pictures, count, is_over))
        for number, count in enumerate(counts)
    ]
    for thread in threads:
        thread.start()
    try:
        points = list(_watch(target, seconds))
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    latencies_ms = sorted(value for count in counts for value in count.latencies_ms)
    answered = sum(count.answered for count in counts)
    failed = sum(count.failed for count in counts)
    return {
        "minutes": seconds / 60,
        "num_callers": num_callers,
        "requests": answered,
        "requests_per_s": answered / seconds,
        "refused": sum(count.refused for count in counts),
        "failed": failed,
        "reason": next((count.reason for count in counts if count.reason), None),
        "p50_ms": statistics.median(latencies_ms) if latencies_ms else None,
        "p99_ms": latencies_ms[int(0.99 * (len(latencies_ms) - 1))] if latencies_ms else None,
        "points": points,
        **curves(points, is_judged=seconds >= LEAST_JUDGED_S),
    }


def curves(points: Sequence[dict[str, float]], *, is_judged: bool) -> dict[str, Any]:
    """Return what is made of the points: extremes, and how memory grew after the warm-up.

    Args:
        points: In order; quantities a machine does not tell are absent.
        is_judged: Whether the soak was long enough for growth to mean something.
    """
    rss = [point["rss_bytes"] for point in points if "rss_bytes" in point]
    available = [point["available_bytes"] for point in points if "available_bytes" in point]
    hottest = [point["celsius"] for point in points if "celsius" in point]
    throttled = [point["throttled"] for point in points if "throttled" in point]
    growth = growth_percent(rss)
    shrinking = growth_percent(available)
    return {
        "rss_max_bytes": max(rss, default=None),
        "rss_growth_percent": growth if is_judged else None,
        "rss_growth_unjudged_percent": growth,
        "available_min_bytes": min(available, default=None),
        "available_loss_percent": -shrinking if is_judged and shrinking is not None else None,
        "celsius_max": max(hottest, default=None),
        "throttled_share": statistics.fmean(throttled) if throttled else None,
        "gpu_hertz_min": min((point["gpu_hertz"] for point in points if "gpu_hertz" in point), default=None),
    }


def growth_percent(values: Sequence[float]) -> float | None:
    """Return by how much the last fifth is above the first one after the warm-up, by medians.

    None where there are too few values to tell.
    """
    warm = values[int(len(values) * _WARM_UP_SHARE) :]
    width = len(warm) // 5
    if not width:
        return None
    first, last = statistics.median(warm[:width]), statistics.median(warm[-width:])
    return 100 * (last / first - 1)


def to_point(samples: Sequence[Sample]) -> dict[str, float]:
    """Return of `/metrics` what is followed."""
    readings: dict[str, Callable[[Sequence[float]], float]] = {
        "process_resident_memory_bytes": sum,  # of all workers
        "jetface_device_memory_available_bytes": min,
        "jetface_device_temperature_celsius": max,
        "jetface_device_throttled": max,
        "jetface_device_gpu_load_ratio": max,
        "jetface_device_power_watts": sum,
    }
    names = ("rss_bytes", "available_bytes", "celsius", "throttled", "gpu_load", "watts")
    point = {}
    for name, (metric, fold) in zip(names, readings.items(), strict=True):
        if values := [each.value for each in samples if each.name == metric]:
            point[name] = float(fold(values))
    clocks = [each for each in samples if each.name == "jetface_device_clock_hertz"]
    if gpus := [each.value for each in clocks if each.labels.get("clock", "").startswith("gpu")]:
        point["gpu_hertz"] = min(gpus)
    return point


def _watch(target: Target, seconds: float) -> Iterator[dict[str, float]]:
    interval_s = max(_LEAST_INTERVAL_S, min(_USUAL_INTERVAL_S, seconds / 20), seconds / _MOST_POINTS)
    started_s = time.monotonic()
    with target.caller() as caller:
        while (elapsed_s := time.monotonic() - started_s) < seconds:
            yield {"minute": elapsed_s / 60, **to_point(caller.samples())}
            time.sleep(max(0.0, min(interval_s, started_s + seconds - time.monotonic())))


def _call(
    target: Target, first: Sequence[Named], then: Sequence[Named], counts: _Counts, is_over: threading.Event
) -> None:
    with target.caller() as caller:
        for picture in _endlessly(first, then):
            if is_over.is_set():
                return
            _ask(caller, picture, counts, is_over)


def _ask(caller: Caller, picture: Named, counts: _Counts, is_over: threading.Event) -> None:
    started_s = time.perf_counter()
    try:
        response = caller.extract(picture.data)
    except httpx.TransportError as cause:
        counts.failed += 1
        counts.reason = f"{type(cause).__name__}: {cause}"
        is_over.wait(_BACK_OFF_S)
        return
    if response.status_code == HTTPStatus.OK:
        counts.answered += 1
        counts.latencies_ms.append(1e3 * (time.perf_counter() - started_s))
    elif response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        counts.refused += 1
        is_over.wait(_BACK_OFF_S)
    else:
        counts.failed += 1
        counts.reason = f"{picture.name}: {response.status_code} {response.text[:200]}"


def _endlessly(first: Sequence[Named], then: Sequence[Named]) -> Iterator[Named]:
    if not then:
        raise click.ClickException("no pictures")
    yield from first
    while True:
        yield from then
