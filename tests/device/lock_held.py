"""How long Python's interpreter lock is held for a picture: what caps the pictures a second of one process.

The service runs in a thread of this process, its clients in another process. A sampler sleeps outside the lock until
moments it chose before, and sees how much later than these it gets the lock back: as often as it has to wait, somebody
held it. The share of such moments is the share of time the lock was held.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from typing import Any

import click
import httpx
import uvicorn

from jetface.main import create_app
from jetface.settings import Settings
from tests.bench.client import drive, post
from tests.device.gpu import describe, open_device
from tests.device.pictures import one_face_jpeg
from tests.device.report import Report
from tests.device.serving import service_options, settings_of
from tests.support.server import free_port

_CLOCK_MONOTONIC, _TIMER_ABSTIME = 1, 1
_MEAN_PAUSE_S = 0.002
_WAIT_S = 0.0001
"""A moment later than this, beyond what is usual when nothing runs, has waited for the lock."""


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class LockSampler(threading.Thread):
    """Notes how late it gets the lock, at random moments."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.late_s: list[float] = []
        self._is_done = threading.Event()
        # CDLL lets go of the lock for the length of a call.
        self._sleep_until = ctypes.CDLL(None).clock_nanosleep

    def run(self) -> None:
        """Sample until `stop`."""
        chance = random.Random(0)
        while not self._is_done.is_set():
            due_ns = time.monotonic_ns() + int(1e9 * chance.expovariate(1 / _MEAN_PAUSE_S))
            moment = _Timespec(*divmod(due_ns, 10**9))
            self._sleep_until(_CLOCK_MONOTONIC, _TIMER_ABSTIME, ctypes.byref(moment), None)
            self.late_s.append((time.monotonic_ns() - due_ns) / 1e9)

    def stop(self) -> list[float]:
        """End, and return how late each moment was, seconds."""
        self._is_done.set()
        self.join()
        return self.late_s


@click.command()
@service_options
@click.option("--clients", default=32)
@click.option("--seconds", default=15.0)
def main(**options: Any) -> None:
    """Measure the lock."""
    device = options["device"]
    report = Report("The interpreter lock", describe(open_device(device)))
    body = post("/extract?threshold=0.5", one_face_jpeg(options["images"]), "image/jpeg")
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        environ = settings_of(options)
        os.environ.update(environ, HOST="127.0.0.1", PORT=str(port), MODELS_DIR=folder, MODEL_DOWNLOAD="0")
        server = uvicorn.Server(uvicorn.Config(create_app(Settings()), port=port, log_config=None))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # of older uvicorns
        thread = threading.Thread(target=server.run)
        thread.start()
        _wait_until_ready(port)
        idle_s = sorted(_sampled(2.0))
        usual_s = idle_s[int(0.9 * len(idle_s))]
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(_drive, (port, body, options["clients"], options["seconds"] / 4))
            sampler = LockSampler()
            sampler.start()
            pictures_per_s = pool.apply(_drive, (port, body, options["clients"], options["seconds"]))
            late_s = sampler.stop()
        server.should_exit = True
        thread.join(60)
    held = sum(late > usual_s + _WAIT_S for late in late_s) / max(1, len(late_s))
    report.add("pictures", pictures_per_s, "/s")
    report.add("share of time the lock was held", held)
    report.add("lock held a picture", 1e3 * held / max(pictures_per_s, 1e-9), "ms")
    report.add("most pictures one process could answer by that", pictures_per_s / max(held, 1e-9), "/s")
    report.add("moments looked at", len(late_s))
    report.show()
    sys.exit(0)


def _sampled(seconds: float) -> list[float]:
    sampler = LockSampler()
    sampler.start()
    time.sleep(seconds)
    return sampler.stop()


def _drive(port: int, body: bytes, clients: int, seconds: float) -> float:
    return asyncio.run(drive(port, body, clients=clients, seconds=seconds)).ok_per_s


def _wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise click.ClickException("the service did not become ready")


if __name__ == "__main__":
    main()
