"""What `jetface bench` measures: bytes in, embeddings out, through the service's own pipeline."""

from __future__ import annotations

import asyncio
import itertools
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import cv2

from jetface.cli.pictures import find_pictures
from jetface.cli.quiet import configure_quiet_logs
from jetface.domain import STAGES, ExtractOptions, PictureResult
from jetface.errors import ModelBuildingError
from jetface.imaging.sources import EncodedPicture
from jetface.judging.drawings import draw_probes
from jetface.service import Service, open_service
from jetface.settings import Settings

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
    num_faces: int = 0
    stages_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, result: PictureResult, latency_s: float) -> None:
        if result.error is not None:
            raise result.error
        self.latencies_s.append(latency_s)
        self.num_faces += len(result.faces)
        for stage in STAGES:
            self.stages_s[stage] += getattr(result.times, f"{stage}_s")

    def as_dict(self) -> dict[str, Any]:
        count = len(self.latencies_s)
        cuts_s = (
            statistics.quantiles(self.latencies_s, n=100, method="inclusive") if count > 1 else self.latencies_s * 99
        )
        return {
            "pictures_per_s": count / self.seconds,
            "faces_per_s": self.num_faces / self.seconds,
            "p50_ms": 1e3 * cuts_s[49],
            "p95_ms": 1e3 * cuts_s[94],
            "p99_ms": 1e3 * cuts_s[98],
            "stages_ms": {stage: 1e3 * total_s / count for stage, total_s in self.stages_s.items()},
        }


def measure_case(
    settings: Settings, paths: Sequence[Path], callers: int, seconds: float, build_timeout_s: float
) -> dict[str, Any]:
    """Measure the service as the settings have it.

    Args:
        settings: Of the case.
        paths: Pictures and folders of pictures; empty: drawn faces.
        callers: At once, beside a measurement with one.
        seconds: Of each measurement.
        build_timeout_s: Longest wait until the models serve.

    Raises:
        click.ClickException: No pictures, or the models do not serve in time.
        ServiceError: The backend or a model cannot be had, or a picture cannot be read.
    """
    configure_quiet_logs(settings)
    pictures = _read(paths) if paths else _draw()
    return asyncio.run(_measure(settings, pictures, callers, seconds, build_timeout_s))


async def _measure(
    settings: Settings, pictures: Sequence[EncodedPicture], callers: int, seconds: float, build_timeout_s: float
) -> dict[str, Any]:
    async with open_service(settings) as service:
        started = time.perf_counter()
        await _wait_for_models(service, build_timeout_s)
        load_s = time.perf_counter() - started
        for _ in range(_WARM_UP_ROUNDS):
            await _drive(service, iter(pictures), callers, _PATIENCE_S)
        cpu_s = time.process_time()
        lone = await _drive(service, itertools.cycle(pictures), 1, seconds)
        many = await _drive(service, itertools.cycle(pictures), callers, seconds)
        cpu_s = time.process_time() - cpu_s
        statuses = map(service.store.status, service.chosen.names)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "backends": {status.spec.name: status.backend for status in statuses},
            "load_s": load_s,
            "callers": callers,
            "one": lone.as_dict(),
            "many": many.as_dict(),
            "cpu_ms_per_picture": 1e3 * cpu_s / (len(lone.latencies_s) + len(many.latencies_s)),
            "peak_rss_mib": usage.ru_maxrss / 1024,
            "device": _readings(service),
        }


async def _drive(service: Service, pictures: Iterator[EncodedPicture], callers: int, seconds: float) -> _Load:
    """Let callers take pictures from `pictures`, one each at a time, until it ends or the time is over."""
    load = _Load()
    loop = asyncio.get_running_loop()
    options = ExtractOptions(score_threshold=service.score_threshold)
    end = loop.time() + seconds

    async def call() -> None:
        for picture in pictures:
            started = loop.time()
            if started >= end:
                return
            (result,) = await service.extractor.extract([picture], options, deadline=started + _PATIENCE_S)
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


def _draw() -> list[EncodedPicture]:
    encoded = (
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1] for image in draw_probes().pictures
    )
    return [EncodedPicture(data.tobytes()) for data in encoded]
