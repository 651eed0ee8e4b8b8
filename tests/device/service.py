"""Pictures a second of the whole service over HTTP, against `insightface` in process and against decoding alone."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from tests.bench.client import Load, drive, post
from tests.device.gpu import describe, open_device
from tests.device.pictures import one_face_jpeg
from tests.device.report import Report
from tests.device.serving import port_of, service_options, serving, settings_of
from tests.support.shared import REPOSITORY


@click.command()
@service_options
@click.option("--peer-python", help="A Python with `insightface` and onnxruntime-gpu; without it the peer is left out.")
@click.option("--workers", "several", type=int, multiple=True, help="Also measure as many service processes.")
@click.option("--clients", default=64, help="Connections to one process; several processes share twice as many.")
@click.option("--drivers", default=4, help="Processes that the clients of several service processes run in.")
@click.option("--seconds", default=15.0, help="For each measurement.")
def main(**options: Any) -> None:
    """Measure the service; ends with 1 where a ratio is missed."""
    device = options["device"]
    report = Report("The whole service, one face in a 1280x886 JPEG", describe(open_device(device)))
    settings = settings_of(options)
    with tempfile.TemporaryDirectory() as name:
        picture = Path(name, "one.jpg")
        picture.write_bytes(one_face_jpeg(options["images"]))
        request = post("/extract?threshold=0.5", picture.read_bytes(), "image/jpeg")

        def measured(what: str, num_clients: int, num_drivers: int, **more: str) -> float:
            with serving(Path(name), settings, **more) as server, spawned(num_drivers) as pool:
                port, seconds = port_of(server), options["seconds"]
                drive_all(pool, port, request, num_clients, num_drivers, seconds / 4)
                loads = drive_all(pool, port, request, num_clients, num_drivers, seconds)
            per_s = sum(load.ok_per_s for load in loads)
            every_ms = 1e3 * np.concatenate([load.ok_s for load in loads])
            report.add(f"{what}: pictures", per_s, "/s")
            report.add(f"{what}: p50", float(np.percentile(every_ms, 50)), "ms")
            report.add(f"{what}: p99", float(np.percentile(every_ms, 99)), "ms")
            return per_s

        one = measured("one process", options["clients"], 1)
        if options["peer_python"]:
            peer = peer_pictures_per_s(options, picture)
            report.add("insightface FaceAnalysis, one process: pictures", peer, "/s")
            report.add("one process over insightface", one / peer, least=8)
        decoded = decoded_per_s(picture, options["seconds"] / 4)
        report.add(f"decoding alone on {os.cpu_count()} cores: pictures", decoded, "/s")
        shares = []
        for workers in options["several"]:
            many = measured(f"{workers} processes", 2 * options["clients"], options["drivers"], WORKERS=str(workers))
            report.add(f"{workers} processes over decoding alone", many / decoded)
            shares.append(many / decoded)
        if shares:
            report.add("best number of processes over decoding alone", max(shares), least=0.5)
    report.show()
    sys.exit(device == "cuda" and not report.is_met)


@contextmanager
def spawned(num_processes: int) -> Iterator[Pool]:
    """Start processes for the clients: one process sends some two thousand pictures a second at most."""
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        yield pool


def drive_all(pool: Pool, port: int, request: bytes, num_clients: int, num_drivers: int, seconds: float) -> list[Load]:
    """Let clients, spread over processes, send a request again and again; return what each process saw."""
    share = (port, request, max(1, num_clients // num_drivers), seconds)
    return pool.starmap(_drive, [share] * num_drivers, chunksize=1)


def _drive(port: int, request: bytes, num_clients: int, seconds: float) -> Load:
    return asyncio.run(drive(port, request, clients=num_clients, seconds=seconds))


def peer_pictures_per_s(options: dict[str, Any], picture: Path) -> float:
    """Run the peer in its own environment."""
    files = [str(options["weights"].resolve() / f"{options[name]}.onnx") for name in ("det_model", "rec_model")]
    command = [options["peer_python"], str(REPOSITORY / "tests/bench/peer.py"), *files, str(picture)]
    command += ["--seconds", str(options["seconds"]), "--device", options["device"]]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(json.loads(answer.strip().splitlines()[-1])["pictures_per_s"])


def decoded_per_s(picture: Path, seconds: float) -> float:
    """Return how many pictures all cores decode together, one process each, by OpenCV."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        cores = os.cpu_count() or 1
        pool.starmap(_decode, [(picture, 0.1)] * cores)
        return float(sum(pool.starmap(_decode, [(picture, seconds)] * cores, chunksize=1)))


def _decode(picture: Path, seconds: float) -> float:
    cv2.setNumThreads(1)
    data = np.frombuffer(picture.read_bytes(), np.uint8)
    started, count = time.perf_counter(), 0
    while (took_s := time.perf_counter() - started) < seconds:
        cv2.imdecode(data, cv2.IMREAD_COLOR)
        count += 1
    return count / took_s


if __name__ == "__main__":
    main()
