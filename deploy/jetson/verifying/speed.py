"""How long one caller waits for one face, and for a crowd; over HTTP, on drawn pictures."""

from __future__ import annotations

import statistics
import time
from typing import Any

import click

from verifying.caller import Caller, Target, answered, stages_ms
from verifying.drawing import crowd, portrait

_WARM_UP_REQUESTS = 3


def measure_speed(target: Target, num_requests: int) -> dict[str, Any]:
    """Measure, one request after the other.

    Args:
        target: The service, its models loaded.
        num_requests: Of each picture, beside the warm-up.

    Returns:
        Medians, milliseconds.

    Raises:
        click.ClickException: A picture is answered by an error, or its faces are not found.
    """
    with target.caller() as caller:
        one = _measure(caller, portrait(), num_requests)
        many = _measure(caller, crowd(), num_requests)
    return {
        "num_requests": num_requests,
        "one_face_ms": one["wall"],
        "one_face_stages_ms": one,
        "detect_ms": one["detect"],
        "crowd_faces": many["faces"],
        "crowd_ms": many["wall"],
        "crowd_stages_ms": many,
        "crowd_ms_per_face": many["wall"] / many["faces"],
        "recognize_ms_per_face": many["recognize"] / many["faces"],
    }


def _measure(caller: Caller, picture: bytes, num_requests: int) -> dict[str, float]:
    series: dict[str, list[float]] = {}
    for number in range(_WARM_UP_REQUESTS + num_requests):
        started_s = time.perf_counter()
        response = caller.extract(picture)
        wall_ms = 1e3 * (time.perf_counter() - started_s)
        (slot,) = answered(response)["data"]
        if not slot["faces"]:
            raise click.ClickException("no face was found in a picture of drawn people")
        if number < _WARM_UP_REQUESTS:
            continue
        figures = {"detect": 0.0, "recognize": 0.0, **stages_ms(response), "wall": wall_ms, "faces": len(slot["faces"])}
        for name, value in figures.items():
            series.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in series.items()}
