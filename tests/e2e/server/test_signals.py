"""Signals: what is in flight is answered, what is new is refused."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from jetface.server.drain import IMPATIENT_AFTER_S, SERVER_GRACE_S
from tests.support.server import Server, free_port, running, service_environ


@contextmanager
def slow_service(folder: Path, *, grace_s: float, nap_s: float) -> Iterator[Server]:
    """`tests.support.slow_app`, listening."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "--factory", "tests.support.slow_app:create_app"),
        *("--port", str(port), "--timeout-graceful-shutdown", str(SERVER_GRACE_S), "--no-access-log"),
    ]
    environ = service_environ({"GRACE_S": str(grace_s), "NAP_S": str(nap_s)})
    with running(command, port, folder / "log", environ) as server:
        server.wait_until_listening()
        yield server


@contextmanager
def naps(service: Server, count: int) -> Iterator[list[Future[httpx.Response]]]:
    """Requests that are in flight when the block is entered."""
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(httpx.get, f"{service.url}/nap", timeout=20) for _ in range(count)]
        deadline = time.monotonic() + 10
        while service.read_log().count("nap begins") < count:
            assert time.monotonic() < deadline, service.read_log()
            time.sleep(0.02)
        yield futures


def test_closed_streams_and_signals_that_mean_nothing_here_do_not_end_it(tmp_path: Path) -> None:
    """What is opened in place of standard error would be sent the log: a socket, or the gallery."""
    port = free_port()
    environ = service_environ(
        {"HOST": "127.0.0.1", "PORT": str(port), "MODELS_DIR": str(tmp_path), "MODEL_DOWNLOAD": "0"}
    )
    command = ["sh", "-c", 'exec "$0" -m jetface.cli serve <&- >&- 2>&-', sys.executable]
    with running(command, port, tmp_path / "log", {**environ, "BACKEND": "onnxruntime"}) as server:
        server.wait_until_live()
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN):
            server.process.send_signal(number)
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        streams = [Path(f"/proc/{server.process.pid}/fd/{number}").readlink() for number in range(3)]
        assert streams == [Path("/dev/null")] * 3
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


class TestSignals:
    """What callers see when the process is told to stop."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_in_flight_is_answered_and_new_is_refused(self, tmp_path: Path, number: signal.Signals) -> None:
        """Requests in flight get their answer, new connections a 503 with a reason, and the exit code is 0."""
        with slow_service(tmp_path, grace_s=20, nap_s=2) as service:
            with naps(service, 3) as answers:
                service.process.send_signal(number)
                service.wait_until_logged("draining")
                refused = httpx.get(f"{service.url}/nap")
                assert refused.status_code == 503
                assert refused.json() == {"code": "shutting_down"}
                assert [answer.result().json() for answer in answers] == [{"expired": False}] * 3
            assert service.process.wait(timeout=3) == 0

    def test_an_idle_service_ends_at_once(self, tmp_path: Path) -> None:
        """Without requests in flight nothing is waited for, an idle keep-alive connection included."""
        with slow_service(tmp_path, grace_s=30, nap_s=0) as service, httpx.Client() as client:
            client.get(f"{service.url}/nap")
            assert service.stop(timeout_s=3) == 0

    def test_the_grace_bounds_the_drain(self, tmp_path: Path) -> None:
        """A request longer than the grace is failed by `on_expiry`, still answered, and the end comes in time."""
        with slow_service(tmp_path, grace_s=3, nap_s=30) as service:
            with naps(service, 1) as answers:
                started = time.monotonic()
                service.process.send_signal(signal.SIGTERM)
                assert answers[0].result().json() == {"expired": True}
            assert service.process.wait(timeout=5) == 0
            assert time.monotonic() - started < 3

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_second_signal_ends_the_wait(self, tmp_path: Path, number: signal.Signals) -> None:
        """Who asks again seconds later does not want to wait: what is in flight is given up, and told so."""
        with slow_service(tmp_path, grace_s=60, nap_s=30) as service:
            with naps(service, 3) as answers:
                service.process.send_signal(signal.SIGTERM)
                service.wait_until_logged("draining")
                time.sleep(IMPATIENT_AFTER_S + 0.1)
                service.process.send_signal(number)
                assert [answer.result().json() for answer in answers] == [{"expired": True}] * 3
                assert service.process.wait(timeout=SERVER_GRACE_S + 3) == 0
            assert service.read_log().count("waiting no longer") == 1

    def test_a_signal_that_comes_twice_at_once_is_one(self, tmp_path: Path) -> None:
        """A group is told as a whole, and then by its parent once more: what is in flight is answered."""
        with slow_service(tmp_path, grace_s=20, nap_s=2) as service:
            with naps(service, 3) as answers:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                    service.process.send_signal(number)
                    time.sleep(0.2)
                assert [answer.result().json() for answer in answers] == [{"expired": False}] * 3
            assert service.process.wait(timeout=5) == 0
            assert "waiting no longer" not in service.read_log()
