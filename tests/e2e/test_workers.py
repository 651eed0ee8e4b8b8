"""`WORKERS=2`: two processes, one service."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.callers import Callers
from tests.support.drawn import draw_group, encode
from tests.support.server import Server, running_server
from tests.support.shared import REPOSITORY

pytestmark = pytest.mark.timeout(300)  # each service is two or three starts of Python, on a busy machine half a minute

STARTERS = {"DET_MODEL": "starter_det", "REC_MODEL": "starter_rec"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    patient = {"REQUEST_TIMEOUT_S": "120", "SHUTDOWN_GRACE_S": "60"}  # on a busy machine
    with running_server(tmp_path_factory.mktemp("workers"), {**STARTERS, **patient, "WORKERS": "2"}) as started:
        yield started


def workers_of(server: Server) -> list[psutil.Process]:
    """The processes that serve: children of the one that was started."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, or gone by now
            if "--worker" in child.cmdline():
                found.append(child)
    return found


def wait_until_all_serve(server: Server, times: int = 1) -> None:
    """Each of both has started so often."""
    deadline = time.monotonic() + 90
    while server.read_log().count("Application startup complete") < 2 * times:
        assert time.monotonic() < deadline, server.read_log()
        time.sleep(0.05)


def num_in_flight(server: Server) -> int:
    """Requests that are being served, by either of them."""
    text = httpx.get(f"{server.url}/metrics", timeout=60, trust_env=False).text
    return int(sum(map(float, re.findall(r"^jetface_requests_in_flight (\S+)$", text, re.MULTILINE))))


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


def test_signals_of_a_terminal_end_nothing(server: Server) -> None:
    """SIGTTIN and SIGTTOU, which other servers take for orders, and which would stop a process."""
    before = {worker.pid for worker in workers_of(server)}
    for number in (signal.SIGTTIN, signal.SIGTTOU):
        os.killpg(server.process.pid, number)
    time.sleep(0.5)
    assert post(server, encode(draw_group())).status_code == httpx.codes.OK
    assert {worker.pid for worker in workers_of(server)} == before


def test_sighup_restarts_one_by_one_without_a_lost_request(server: Server) -> None:
    """Callers that keep their connections, and ask all the while, get 200 each time; all workers are new then."""
    before = {worker.pid for worker in workers_of(server)}
    with Callers(server.url, 3) as callers:
        server.process.send_signal(signal.SIGHUP)
        server.wait_until_logged("all workers are new", 240)
    after = {worker.pid for worker in workers_of(server)}
    assert (len(after), after & before) == (2, set())
    assert set(callers.statuses) == {200}
    assert len(callers.statuses) > 8


def test_a_signal_to_the_whole_group_answers_what_is_in_flight(server: Server) -> None:
    """As Ctrl+C does, and supervisors that end a whole group: each worker is told twice, and all of them drain."""
    body = {"images": {"data": [base64.b64encode(encode(draw_group())).decode()] * 6}}

    def extract() -> httpx.Response:
        return httpx.post(f"{server.url}/extract", json=body, timeout=150, trust_env=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: extract(), range(8)))  # models are loaded, by both
        log_length = len(server.read_log())
        answers = [pool.submit(extract) for _ in range(8)]
        # All of them: a client that connects after the signal finds no listener.
        # First those that have ended: one that ends meanwhile must not be counted twice.
        while server.read_log()[log_length:].count("route=/extract") + num_in_flight(server) < 8:
            time.sleep(0.005)
        os.killpg(server.process.pid, signal.SIGINT)
        codes = [answer.result().status_code for answer in answers]
    assert server.process.wait(60) == 0
    assert codes == [200] * 8
    log = server.read_log()[log_length:]
    assert log.count("draining") == 2
    assert "Traceback" not in log


def test_every_line_is_json_where_that_is_asked_for(tmp_path: Path) -> None:
    """The parent's, too, and those of a worker that dies."""
    with running_server(tmp_path, {**STARTERS, "WORKERS": "2", "LOG_FORMAT": "json"}) as server:
        wait_until_all_serve(server)
        os.kill(workers_of(server)[0].pid, signal.SIGKILL)
        server.wait_until_logged("worker died and is replaced")
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.read_log().splitlines()]
    events = [line["event"] for line in lines if line["logger"] == "jetface.server.workers"]
    assert events[:2] == ["worker started"] * 2
    assert events[-1] == "stopping"


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """However it ends: nobody would replace them or tell them to stop."""
    with running_server(tmp_path, {**STARTERS, "WORKERS": "2"}) as server:
        wait_until_all_serve(server)
        orphans = workers_of(server)
        server.process.kill()
        _, alive = psutil.wait_procs(orphans, timeout=30)
        assert alive == []


def test_one_that_stands_still_is_replaced(tmp_path: Path) -> None:
    """Within `WORKER_TIMEOUT_S` or little more; the other one serves meanwhile."""
    with running_server(tmp_path, {**STARTERS, "WORKERS": "2", "WORKER_TIMEOUT_S": "4"}) as server:
        wait_until_all_serve(server)
        victim = workers_of(server)[0]
        victim.suspend()
        server.wait_until_logged("worker is stuck and is killed", 30)
        wait_until_all_serve(server)
        assert victim.pid not in {worker.pid for worker in workers_of(server)}


def test_a_swept_temporary_folder_harms_nothing(tmp_path: Path) -> None:
    """Nothing of the workers lies there: they are replaced and counted as ever."""
    (temporary := tmp_path / "tmp").mkdir()
    with running_server(tmp_path, {**STARTERS, "WORKERS": "2", "TMPDIR": str(temporary)}) as server:
        wait_until_all_serve(server)
        shutil.rmtree(temporary)
        os.kill(workers_of(server)[0].pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while server.read_log().count("Application startup complete") < 3:
            assert time.monotonic() < deadline, server.read_log()
            time.sleep(0.05)
        assert post(server, encode(draw_group())).status_code == httpx.codes.OK
        scrape = httpx.get(f"{server.url}/metrics", trust_env=False).text
    assert {f'worker="{slot}"' in scrape for slot in (0, 1)} == {True}
    assert (
        sum(float(line.rsplit(" ", 1)[1]) for line in scrape.splitlines() if "worker_replacements_total{" in line) == 1
    )


@pytest.mark.parametrize("num_workers", ["1", "2"])
def test_two_colons_listen_on_ipv6_and_ipv4(tmp_path: Path, num_workers: str) -> None:
    with running_server(tmp_path, {**STARTERS, "WORKERS": num_workers, "HOST": "::"}) as server:
        port = httpx.URL(server.url).port
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{port}/health/live", trust_env=False, timeout=30).status_code == 200
        assert server.stop() == 0


@pytest.mark.parametrize("num_workers", ["1", "2"])
def test_a_unix_socket_is_listened_on_instead(tmp_path: Path, num_workers: str) -> None:
    """It is gone after the end, and is told to health checks."""
    path = tmp_path / "socket"
    with running_server(tmp_path, {"WORKERS": num_workers, "UDS": str(path)}, wait=False) as server:
        server.wait_until_logged("Application startup complete", 60)
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url="http://jetface", timeout=30
        ) as client:
            assert client.get("/health/ready").status_code == 200
        check = [REPOSITORY / "deploy/healthcheck.sh"]
        assert subprocess.run(check, env={**os.environ, "UDS": str(path)}, timeout=60, check=False).returncode == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health/live", trust_env=False)
        assert server.stop() == 0
        assert not path.exists()
    assert subprocess.run(check, env={**os.environ, "UDS": str(path)}, timeout=60, check=False).returncode != 0


def test_what_cannot_start_is_not_started_again_and_again(tmp_path: Path) -> None:
    """One line from each worker, then the end, by the exit code for it."""
    with running_server(tmp_path, {"DET_MODEL": "scrfd_11g", "WORKERS": "2"}, wait=False) as server:
        assert server.process.wait(60) == 3
        log = server.read_log()
    assert 1 <= log.count("scrfd_11g") <= 4
    assert "Traceback" not in log


def test_what_one_worker_loads_or_unloads_the_others_do_and_each_has_a_gpu(tmp_path: Path) -> None:
    """A request reaches whichever takes the connection; the GPUs are none of this machine's, and named all the same."""
    variables = {**STARTERS, "WORKERS": "2", "GPU_DEVICE_IDS": "3, GPU-5f1c", "BACKEND": "onnxruntime"}
    with (
        running_server(tmp_path, {**variables, "ORT_PROVIDERS": "cpu"}) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client,
    ):
        wait_until_all_serve(server)
        for action, event in (("load", "model serving"), ("unload", "model unloaded"), ("reload", "model serving")):
            before = server.read_log().count(event)
            assert client.post(f"/models/starter_det/{action}").status_code == 200
            deadline = time.monotonic() + 60
            while server.read_log().count(event) < before + 2:
                assert time.monotonic() < deadline, server.read_log()
                time.sleep(0.05)
            assert server.read_log().count(event) == before + 2
        log = server.read_log()
    assert sorted(re.findall(r"GPU chosen.*?device=(\S+)", log)) == ["3", "GPU-5f1c"]
