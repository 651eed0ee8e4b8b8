"""What `jetface bench` found, as Markdown and as a plot."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from jetface import __version__
from jetface.cli.bench_cases import Outcome
from jetface.device.limits import usable_cores
from jetface.device.machine import find_gpu, find_jetson
from jetface.runtimes.providers import runtime_version

_BASELINES = ("onnxruntime-cuda", "onnxruntime-cpu")
"""What the others are compared with: the first that was measured."""

_SHOWN_READINGS = (
    "power_mode",
    "gpu_memory_free_bytes",
    "clock_hertz",
    "temperature_celsius",
    "power_watts",
    "throttled",
)


_COLUMNS = (
    "case", "backends", "pictures/s", "faces/s", "p50 / p95 / p99 of one caller, ms", "of all callers, ms",
    "CPU ms a picture", "peak MiB", "load s", "over baseline",
)  # fmt: skip


def machine(root: Path = Path("/")) -> dict[str, Any]:
    """Return what figures should never be quoted without."""
    jetson, gpu = find_jetson(root), find_gpu(root)
    return {
        "jetface": __version__,
        "onnxruntime": ".".join(map(str, runtime_version())),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": usable_cores(),
        "module": jetson.module if jetson else None,
        "power_mode": jetson.power_mode if jetson else None,
        "gpu_driver": gpu.driver if gpu else None,
    }


def to_markdown(here: Mapping[str, Any], outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the lines of a report people can paste into an issue."""
    yield ", ".join(f"{name} {value}" for name, value in here.items() if value is not None)
    yield ""
    measured = [outcome for outcome in outcomes if outcome.figures]
    if measured:
        yield from _speed(measured)
        yield from _stages(measured)
        yield from _device(measured)
    for outcome in outcomes:
        if not outcome.figures:
            yield f"- {outcome.name} was not measured: {outcome.reason}"


def draw_plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw bars of pictures/s and of latencies.

    Raises:
        click.ClickException: matplotlib is not installed, or cannot write such a file.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and slow to import
    except ImportError as cause:
        raise click.ClickException("--plot needs matplotlib: pip install matplotlib") from cause
    measured = {outcome.name: outcome.figures for outcome in outcomes if outcome.figures}
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(measured)), layout="constrained")
    rates, latencies = figure.subplots(1, 2, sharey=True)
    names = list(measured)
    rates.barh(names, [figures["many"]["pictures_per_s"] for figures in measured.values()])
    rates.set_xlabel("pictures/s, all callers")
    for quantile in ("p99_ms", "p95_ms", "p50_ms"):
        label = quantile.removesuffix("_ms")
        latencies.barh(names, [figures["one"][quantile] for figures in measured.values()], label=label)
    latencies.set_xlabel("ms, one caller")
    latencies.legend()
    rates.invert_yaxis()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as cause:
        raise click.ClickException(f"{path} cannot be drawn: {cause}") from cause


def _speed(measured: Sequence[Outcome]) -> Iterator[str]:
    rate_of = {outcome.name: outcome.figures["many"]["pictures_per_s"] for outcome in measured if outcome.figures}
    baseline = next((name for name in _BASELINES if name in rate_of), None)
    yield f"| {' | '.join(_COLUMNS)} |"
    yield f"|{'---|' * len(_COLUMNS)}"
    for outcome in measured:
        figures = outcome.figures or {}
        one, many = figures["one"], figures["many"]
        cells = [
            outcome.name,
            ", ".join(sorted(set(figures["backends"].values()))),
            f"{many['pictures_per_s']:.1f}",
            f"{many['faces_per_s']:.1f}",
            _quantiles(one),
            _quantiles(many),
            f"{figures['cpu_ms_per_picture']:.1f}",
            f"{figures['peak_rss_mib']:.0f}",
            f"{figures['load_s']:.1f}",
            f"{rate_of[outcome.name] / rate_of[baseline]:.2f}" if baseline else "",
        ]
        yield f"| {' | '.join(cells)} |"
    if baseline:
        yield ""
        yield f"Baseline: {baseline}."
    yield ""


def _stages(measured: Sequence[Outcome]) -> Iterator[str]:
    """Stages that took no time anywhere are left out."""
    of_case = {outcome.name: outcome.figures["one"]["stages_ms"] for outcome in measured if outcome.figures}
    stages = [stage for stage in next(iter(of_case.values())) if any(times[stage] for times in of_case.values())]
    yield f"| one caller, ms a picture | {' | '.join(stages)} |"
    yield f"|---|{'---|' * len(stages)}"
    for name, times in of_case.items():
        yield f"| {name} | {' | '.join(f'{times[stage]:.2f}' for stage in stages)} |"
    yield ""


def _device(measured: Sequence[Outcome]) -> Iterator[str]:
    for outcome in measured:
        readings = (outcome.figures or {})["device"]
        told = [f"{name} {_reading(readings[name])}" for name in _SHOWN_READINGS if readings.get(name)]
        if told:
            yield f"- {outcome.name}, at its end: {'; '.join(told)}"
    yield ""


def _quantiles(load: Mapping[str, float]) -> str:
    return " / ".join(f"{load[name]:.1f}" for name in ("p50_ms", "p95_ms", "p99_ms"))


def _reading(value: Mapping[str, float] | str) -> str:
    if isinstance(value, str):
        return value
    return ", ".join(f"{label} {number:g}".strip() for label, number in value.items())
