"""Sixteen callers ask two workers without a pause; a worker is killed three times, all are restarted, all are stopped.

Wanted: a killed worker loses what it held and nothing else, at most the sixteen requests that were on their way; SIGHUP
loses nothing; SIGTERM to the whole group, and once more three seconds later, cuts nothing off. `lost` are connections
that ended without an answer, `refused` those that found nobody, after the end.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from tests.support.drawn import draw_group, encode
from tests.support.server import Server, running_server

NUM_CALLERS = 16
_VARIABLES = {"DET_MODEL": "starter_det", "REC_MODEL": "starter_rec", "WORKERS": "2", "SHUTDOWN_GRACE_S": "20"}


def _workers(server: Server) -> list[int]:
    children = psutil.Process(server.process.pid).children()
    return sorted(child.pid for child in children if child.is_running() and "--worker" in child.cmdline())


def _wait_for(server: Server, num_starts: int) -> None:
    deadline = time.monotonic() + 120
    while server.read_log().count("Application startup complete") < num_starts:
        if time.monotonic() > deadline:
            raise TimeoutError(server.read_log())
        time.sleep(0.1)


def _under_load(server: Server, *, keeps: bool, harm: Callable[[], None]) -> dict[str, object]:
    """Let the callers ask for as long as the harm takes and two seconds around it; return what they got."""
    got: Counter[str] = Counter()
    stop = threading.Event()
    picture = encode(draw_group())

    def ask() -> None:
        client = httpx.Client(base_url=server.url, timeout=60, trust_env=False)
        while not stop.is_set():
            header = {"content-type": "image/png"} | ({} if keeps else {"connection": "close"})
            try:
                got[str(client.post("/detect", content=picture, headers=header).status_code)] += 1
            except httpx.ConnectError:
                got["refused"] += 1
                time.sleep(0.1)
            except httpx.TransportError:
                got["lost"] += 1
        client.close()

    callers = [threading.Thread(target=ask) for _ in range(NUM_CALLERS)]
    for caller in callers:
        caller.start()
    time.sleep(2)
    harm()
    time.sleep(2)
    stop.set()
    for caller in callers:
        caller.join()
    named = {name: got.pop(name, 0) for name in ("200", "503", "lost", "refused")}
    return {"connections": "kept" if keeps else "new", **named, "else": dict(got) or ""}


def run() -> list[dict[str, object]]:
    """Harm a service in each way, with connections that are kept and with new ones; one row each."""
    rows: list[dict[str, object]] = []
    for keeps in (True, False):
        with tempfile.TemporaryDirectory() as folder, running_server(Path(folder), _VARIABLES) as server:
            _wait_for(server, 2)

            def kill_thrice(server: Server = server) -> None:
                for number in range(3):
                    os.kill(_workers(server)[0], signal.SIGKILL)
                    _wait_for(server, 3 + number)

            def restart(server: Server = server) -> None:
                server.process.send_signal(signal.SIGHUP)
                server.wait_until_logged("all workers are new", 240)

            def stop_twice(server: Server = server) -> None:
                for pause_s in (3.0, 0.0):
                    if server.process.poll() is None:
                        os.killpg(server.process.pid, signal.SIGTERM)
                        time.sleep(pause_s)
                server.process.wait(60)

            for name, harm in (
                ("SIGKILL of a worker, three times", kill_thrice),
                ("SIGHUP", restart),
                ("SIGTERM to the group, again 3 s later", stop_twice),
            ):
                rows.append({"harm": name, **_under_load(server, keeps=keeps, harm=harm)})
    return rows
