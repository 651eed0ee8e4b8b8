"""`WORKERS=2`: two processes, one service."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.drawn import draw_group, encode
from tests.support.server import Server, running_server

STARTERS = {"DET_MODEL": "starter_det", "REC_MODEL": "starter_rec"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("workers"), {**STARTERS, "WORKERS": "2"}) as started:
        yield started


def workers_of(server: Server) -> list[psutil.Process]:
    """The processes that serve: children of the one that was started, the resource tracker aside."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, or gone by now
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def post(server: Server, picture: bytes) -> httpx.Response:
    """On a connection of its own, so that any worker may take it."""
    return httpx.post(
        f"{server.url}/detect", content=picture, headers={"content-type": "image/png"}, timeout=60, trust_env=False
    )


def counted(server: Server) -> dict[str, float]:
    """Pictures answered, by worker, as one scrape tells it."""
    lines = httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()
    ok = (line for line in lines if line.startswith("jetface_pictures_total") and 'status="ok"' in line)
    return {line.split('worker="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1]) for line in ok}


def test_any_worker_tells_what_all_of_them_counted(server: Server) -> None:
    """Whichever takes the scrape; the others' figures may be a few seconds old."""
    picture, num_pictures = encode(draw_group()), 12
    for _ in range(num_pictures):
        assert post(server, picture).status_code == httpx.codes.OK
    deadline = time.monotonic() + 60
    while sum((seen := counted(server)).values()) < num_pictures:
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)
    assert seen.keys() == {"0", "1"}
    assert sum(seen.values()) == num_pictures


def test_a_worker_that_dies_is_replaced_and_the_service_goes_on(server: Server) -> None:
    picture = encode(draw_group())
    assert post(server, picture).status_code == httpx.codes.OK
    before = {worker.pid for worker in workers_of(server)}
    assert len(before) == 2
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while len(now := {worker.pid for worker in workers_of(server)} - {victim}) < 2:
        assert time.monotonic() < deadline, server.read_log()
        # A connection that the dead one had accepted is lost with it; a new one finds the other.
        assert post(server, picture).status_code == httpx.codes.OK
    assert len(now & before) == 1


def test_all_of_them_drain(server: Server) -> None:
    """The two of the beginning less the one that died, and the one in its place, once it serves."""
    deadline = time.monotonic() + 60
    while server.read_log().count("Application startup complete") < 3:
        assert time.monotonic() < deadline, server.read_log()
        time.sleep(0.05)
    assert server.stop() == 0
    assert server.read_log().count("draining") == 2


def test_what_cannot_start_is_not_started_again_and_again(tmp_path: Path) -> None:
    """One line from each worker, then the end."""
    with running_server(tmp_path, {"DET_MODEL": "scrfd_11g", "WORKERS": "2"}, wait=False) as server:
        assert server.process.wait(60) == 0
        log = server.read_log()
    assert 1 <= log.count("scrfd_11g") <= 4
    assert "Traceback" not in log
