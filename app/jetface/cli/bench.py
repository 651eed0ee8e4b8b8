"""`jetface bench`: how fast this machine is, by each backend that it has: bytes in, embeddings or texts out."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

import click
import cv2
from tqdm import tqdm

from jetface import __version__
from jetface.cli.pictures import find_pictures
from jetface.cli.quiet import configure_quiet_logs
from jetface.device.limits import usable_cores
from jetface.device.machine import find_gpu, find_jetson
from jetface.domain import STAGES, ExtractOptions, PictureResult, PlateOptions
from jetface.errors import ModelBuildingError
from jetface.imaging.sources import EncodedPicture
from jetface.judging.drawings import draw_pictures, draw_traffic
from jetface.runtimes.providers import runtime_version
from jetface.service import Service, open_service
from jetface.settings import Settings, read_settings, variable_names

CASES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "onnxruntime-cpu": {"backend": "onnxruntime", "ort_providers": "cpu"},
        "openvino-f32": {"backend": "openvino", "openvino_precision": "f32"},
        "openvino-bf16": {"backend": "openvino", "openvino_precision": "bf16"},
        # Of the recognizer alone: detectors lose more by it (docs/models.md).
        "onnxruntime-cpu-int8": {"backend": "onnxruntime", "ort_providers": "cpu", "rec_precision": "int8"},
        "openvino-int8": {"backend": "openvino", "rec_precision": "int8"},
        "onnxruntime-cuda": {"backend": "onnxruntime", "ort_providers": "cuda"},
        # Engines alone are measured: nobody is to answer in their place while they are built.
        "tensorrt-fp32": {"backend": "tensorrt", "force_fp16": "0", "serve_while_building": "0"},
        "tensorrt-fp16": {"backend": "tensorrt", "force_fp16": "1", "serve_while_building": "0"},
        "tensorrt-int8": {"backend": "tensorrt", "rec_precision": "int8", "serve_while_building": "0"},
    }
)
"""Fields of `Settings` by case; everything else is as the environment says."""

Task: TypeAlias = Literal["faces", "plates"]
"""What is found in pictures."""

_TASK_SETTINGS: Mapping[Task, Mapping[str, str]] = MappingProxyType(
    {"faces": {}, "plates": {"det_model": "none", "rec_model": "none"}}
)
"""As `CASES`: what is not measured is not loaded."""

_USUAL_PLATE_MODELS = MappingProxyType({"PLATE_DET_MODEL": "starter_plate", "PLATE_OCR_MODEL": "cct_xs_v1_global"})
"""What is measured where the environment names none: what comes along or can be downloaded."""

_MARGIN_S = 120.0
"""For Python, imports and warm-up, beside what is measured and built."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case."""

    name: str
    figures: Mapping[str, Any] | None
    """As `measure_case` returns them; None when it could not be run."""
    reason: str = ""
    """Why not, one line."""

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return {"name": self.name, "figures": self.figures, "reason": self.reason or None}


def _cases_of(task: Task) -> list[str]:
    return [case for case, fields in CASES.items() if task == "faces" or "rec_precision" not in fields]


def run_cases(
    names: Sequence[str],
    paths: Sequence[Path],
    *,
    task: Task = "faces",
    callers: int,
    seconds: float,
    build_timeout_s: float,
) -> list[Outcome]:
    """Measure cases one after the other, in the order given, with a bar on a terminal's stderr."""
    arguments = [
        *("--task", task),
        *("--callers", str(callers), "--seconds", str(seconds), "--build-timeout", str(build_timeout_s)),
        *map(str, paths),
    ]
    timeout_s = 2 * seconds + build_timeout_s + _MARGIN_S
    with tqdm(names, unit="case", disable=None, leave=False) as bar:
        outcomes = []
        for name in bar:
            bar.set_description(name)
            outcomes.append(_run(name, task, arguments, timeout_s))
        return outcomes


def environ_of(case: str, task: Task = "faces") -> dict[str, str]:
    """Return this process's environment with the settings of a case in place of others by any of their names."""
    fields = {**CASES[case], **_TASK_SETTINGS[task]}
    others = {alias for field in fields for alias in variable_names(field)}
    usual = _USUAL_PLATE_MODELS if task == "plates" else {}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in others}
    return {**usual, **kept, **{variable_names(field)[0]: value for field, value in fields.items()}}


def _run(case: str, task: Task, arguments: Sequence[str], timeout_s: float) -> Outcome:
    command = [sys.executable, "-m", "jetface.cli", "bench", "--measure", case, *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - this program, on what its user named
            command, env=environ_of(case, task), capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome(case, None, f"not done within {timeout_s:.0f} s")
    if done.returncode < 0:
        return Outcome(case, None, f"the process was ended by signal {-done.returncode}")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Outcome(case, None, lines[-1].removeprefix("Error: "))
    return Outcome(case, json.loads(done.stdout.splitlines()[-1]))


_WARM_UP_ROUNDS = 2
"""Over all pictures: the first sees every size for the first time."""

_MOST_PICTURES = 64
"""Kept in memory at a time; more would measure the disk."""

_JPEG_QUALITY = 90
_PATIENCE_S = 600.0
_ASK_EVERY_S = 0.5


@dataclass(slots=True)
class _Load:
    """What some callers saw in some seconds."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    num_found: int = 0
    stages_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, result: PictureResult, latency_s: float) -> None:
        if result.error is not None:
            raise result.error
        self.latencies_s.append(latency_s)
        self.num_found += len(result.faces if result.plates is None else result.plates)
        for stage in STAGES:
            self.stages_s[stage] += getattr(result.times, f"{stage}_s")

    def as_dict(self, task: Task) -> dict[str, Any]:
        count = len(self.latencies_s)
        cuts_s = (
            statistics.quantiles(self.latencies_s, n=100, method="inclusive") if count > 1 else self.latencies_s * 99
        )
        return {
            "pictures_per_s": count / self.seconds,
            f"{task}_per_s": self.num_found / self.seconds,
            "mean_ms": 1e3 * statistics.fmean(self.latencies_s),
            "p50_ms": 1e3 * cuts_s[49],
            "p95_ms": 1e3 * cuts_s[94],
            "p99_ms": 1e3 * cuts_s[98],
            "stages_ms": {stage: 1e3 * total_s / count for stage, total_s in self.stages_s.items()},
        }


def measure_case(
    settings: Settings, paths: Sequence[Path], *, task: Task, callers: int, seconds: float, build_timeout_s: float
) -> dict[str, Any]:
    """Measure the service as the settings have it.

    Args:
        settings: Of the case.
        paths: Pictures and folders of pictures; empty: drawn faces, or cars.
        task: What is found in them.
        callers: At once, beside a measurement with one.
        seconds: Of each measurement.
        build_timeout_s: Longest wait until the models serve.

    Raises:
        click.ClickException: No pictures, or the models do not serve in time.
        ServiceError: The backend or a model cannot be had, or a picture cannot be read.
    """
    configure_quiet_logs(settings)
    pictures = _read(paths) if paths else _draw(task)
    return asyncio.run(_measure(settings, pictures, task, callers, seconds, build_timeout_s))


async def _measure(
    settings: Settings,
    pictures: Sequence[EncodedPicture],
    task: Task,
    callers: int,
    seconds: float,
    build_timeout_s: float,
) -> dict[str, Any]:
    async with open_service(settings) as service:
        ask = _asking(service, task)
        started = time.perf_counter()
        await _wait_for_models(service, build_timeout_s)
        load_s = time.perf_counter() - started
        first = await _drive(ask, iter(pictures[:1]), 1, _PATIENCE_S)
        for _ in range(_WARM_UP_ROUNDS):
            await _drive(ask, iter(pictures), callers, _PATIENCE_S)
        cpu_s = time.process_time()
        lone = await _drive(ask, itertools.cycle(pictures), 1, seconds)
        many = await _drive(ask, itertools.cycle(pictures), callers, seconds)
        cpu_s = time.process_time() - cpu_s
        statuses = map(service.store.status, service.chosen.names)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "backends": {status.spec.name: status.backend for status in statuses},
            "load_s": load_s,
            "first_ms": 1e3 * first.latencies_s[0],
            "callers": callers,
            "one": lone.as_dict(task),
            "many": many.as_dict(task),
            "cpu_ms_per_picture": 1e3 * cpu_s / (len(lone.latencies_s) + len(many.latencies_s)),
            "peak_rss_mib": usage.ru_maxrss / 1024,
            "device": _readings(service),
        }


_Ask: TypeAlias = Callable[[EncodedPicture, float], Awaitable[list[PictureResult]]]
"""Asks the service of a picture, until a deadline."""


def _asking(service: Service, task: Task) -> _Ask:
    if task == "plates":
        plates = service.require_plates()
        return lambda picture, deadline: plates.find([picture], PlateOptions(), deadline=deadline)
    options = ExtractOptions(score_threshold=service.score_threshold)
    return lambda picture, deadline: service.extractor.extract([picture], options, deadline=deadline)


async def _drive(ask: _Ask, pictures: Iterator[EncodedPicture], callers: int, seconds: float) -> _Load:
    """Let callers take pictures from `pictures`, one each at a time, until it ends or the time is over."""
    load = _Load()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def call() -> None:
        for picture in pictures:
            started = loop.time()
            if started >= end:
                return
            (result,) = await ask(picture, started + _PATIENCE_S)
            load.add(result, loop.time() - started)

    started = loop.time()
    await asyncio.gather(*(call() for _ in range(callers)))
    load.seconds = loop.time() - started
    return load


async def _wait_for_models(service: Service, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    for name in service.chosen.names:
        while (fault := await _fault_of(service, name)) is not None:
            if time.monotonic() > deadline:
                raise click.ClickException(f"{fault} It is not done after {timeout_s:.0f} s.")
            await asyncio.sleep(_ASK_EVERY_S)


async def _fault_of(service: Service, name: str) -> str | None:
    """Return why a model does not serve yet; None when it does."""
    try:
        await service.store.get(name)
    except ModelBuildingError as error:
        return error.message
    return None


def _readings(service: Service) -> dict[str, Any]:
    status = service.telemetry.status()
    return {"power_mode": status.power_mode, **{name: dict(values) for name, values in status.readings.items()}}


def _read(paths: Sequence[Path]) -> list[EncodedPicture]:
    found = find_pictures(paths)[:_MOST_PICTURES]
    if not found:
        raise click.ClickException("no pictures found")
    return [EncodedPicture(picture.path.read_bytes()) for picture in found]


def _draw(task: Task) -> list[EncodedPicture]:
    drawings = draw_traffic() if task == "plates" else draw_pictures()
    encoded = (cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1] for image in drawings.pictures)
    return [EncodedPicture(data.tobytes()) for data in encoded]


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
    "case", "backends", "pictures/s", "{task}/s", "p50 / p95 / p99 of one caller, ms", "of all callers, ms",
    "CPU ms a picture", "peak MiB", "load s", "first picture, ms", "over baseline",
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
    task = next(task for task in get_args(Task) if f"{task}_per_s" in (measured[0].figures or {})["many"])
    yield f"| {' | '.join(_COLUMNS)} |".format(task=task)
    yield f"|{'---|' * len(_COLUMNS)}"
    for outcome in measured:
        figures = outcome.figures or {}
        one, many = figures["one"], figures["many"]
        cells = [
            outcome.name,
            ", ".join(sorted(set(figures["backends"].values()))),
            f"{many['pictures_per_s']:.1f}",
            f"{many[f'{task}_per_s']:.1f}",
            _quantiles(one),
            _quantiles(many),
            f"{figures['cpu_ms_per_picture']:.1f}",
            f"{figures['peak_rss_mib']:.0f}",
            f"{figures['load_s']:.1f}",
            f"{figures['first_ms']:.1f}",
            f"{rate_of[outcome.name] / rate_of[baseline]:.2f}" if baseline else "",
        ]
        yield f"| {' | '.join(cells)} |"
    if baseline:
        yield ""
        yield f"Baseline: {baseline}."
    yield ""


def _stages(measured: Sequence[Outcome]) -> Iterator[str]:
    """Stages that took no time anywhere are left out."""
    of_case = {
        outcome.name: {**outcome.figures["one"]["stages_ms"], "total": outcome.figures["one"]["mean_ms"]}
        for outcome in measured
        if outcome.figures
    }
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


MANY_CALLERS = 4


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[PATH]...")
@click.option(
    "--case", "cases", multiple=True, type=click.Choice(list(CASES)),
    help="Backend and precision; may be repeated. Default: all that can be had here.",
)  # fmt: skip
@click.option(
    "--task", type=click.Choice(get_args(Task)), default="faces", show_default=True,
    help="What is found and embedded, or read. plates: by PLATE_DET_MODEL and PLATE_OCR_MODEL, else by starter_plate "
    "and cct_xs_v1_global, without models of faces.",
)  # fmt: skip
@click.option(
    "--callers", type=click.IntRange(1, 256), default=MANY_CALLERS, show_default=True,
    help="Callers at once, beside a measurement with one.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, help="Length of a measurement."
)
@click.option(
    "--build-timeout", "build_timeout_s", type=click.FloatRange(1), default=3600.0, show_default=True,
    help="Longest wait for models to be downloaded and engines to be built, seconds.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of Markdown.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, writable=True, path_type=Path), metavar="FILE",
    help="Draw pictures/s and latencies, as the file's ending says; needs matplotlib.",
)  # fmt: skip
@click.option("--measure", type=click.Choice(list(CASES)), hidden=True, help="Measure one case in this process.")
def bench(  # noqa: PLR0913 - its arguments are the options of the command
    *,
    paths: tuple[Path, ...],
    cases: Sequence[str],
    task: Task,
    callers: int,
    seconds: float,
    build_timeout_s: float,
    as_json: bool,
    plot: Path | None,
    measure: str | None,
) -> None:
    """Measure the pipeline on pictures, files or folders; drawn ones where none are named.

    From the bytes of a file to embeddings, or to the texts of plates, without HTTP: decoding, copies and queues
    included. Each case runs in a process of its own, so that memory is its own and a crash ends that case alone. Exit
    code 1 when none could be run.
    """
    settings = read_settings()
    if measure is not None:
        figures = measure_case(
            settings, paths, task=task, callers=callers, seconds=seconds, build_timeout_s=build_timeout_s
        )
        click.echo(json.dumps(figures))
        return
    outcomes: list[Outcome] = run_cases(
        cases or _cases_of(task), paths, task=task, callers=callers, seconds=seconds, build_timeout_s=build_timeout_s
    )
    here = machine()
    if as_json:
        click.echo(json.dumps({"machine": here, "cases": [outcome.as_dict() for outcome in outcomes]}, indent=2))
    else:
        click.echo("\n".join(to_markdown(here, outcomes)))
    if plot is not None:
        draw_plot(outcomes, plot)
    if not any(outcome.figures for outcome in outcomes):
        raise SystemExit(1)
