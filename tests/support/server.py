"""The real service as a process of its own, started as an operator starts it: `entrypoint.sh` and variables."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from jetface.settings import Settings, variable_names
from tests.support.shared import REPOSITORY

START_TIMEOUT_S = 60.0
"""Python, its imports and a port; models load later unless preloaded. Long, for a busy machine."""


def free_port() -> int:
    """Return a loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def service_environ(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without our settings, plus `variables`, with this Python's tools on PATH."""
    ours = {name for field in Settings.model_fields for name in variable_names(field)}
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    tools = str(Path(sys.executable).parent)
    return {**environ, "PATH": f"{tools}{os.pathsep}{environ.get('PATH', '')}", **variables}


PLATES_ON = {"PLATE_DET_MODEL": "starter_plate", "PLATE_OCR_MODEL": "plate_ocr_cct_xs"}
"""Settings of a service that reads licence plates."""


def real_models(folder: Path) -> dict[str, str]:
    """Return the variables of a service with the real detector and recognizer that tests use, out of `folder`."""
    return {"MODEL_MIRROR": str(folder), "DET_MODEL": "det_500m", "REC_MODEL": "w600k_mbf_dequantized"}


class Server:
    """A started service. `process` is the whole tree's parent: `entrypoint.sh`, or tini around it."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        """Wrap a started process; `running` makes these."""
        self.process = process
        self.url = url
        self.log = log

    def read_log(self) -> str:
        """Return everything the service wrote so far, both streams."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_until_listening(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when the port takes connections; raises as `wait_until_live`."""
        deadline = time.monotonic() + timeout_s
        address = (httpx.URL(self.url).host, httpx.URL(self.url).port)
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(address) == 0:
                    return
            self._fail_after(deadline, "no listener")
            time.sleep(0.05)

    def wait_until_live(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when `/health/live` answers 200.

        Raises:
            RuntimeError: The process ended, or the time is over; the message holds the log.
        """
        self._wait("/health/live", timeout_s)

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when `/health/ready` answers 200; raises as `wait_until_live`."""
        self._wait("/health/ready", timeout_s)

    def wait_until_logged(self, text: str, timeout_s: float = 10.0) -> None:
        """Return when the log holds `text`; raises as `wait_until_live`."""
        deadline = time.monotonic() + timeout_s
        while text not in self.read_log():
            self._fail_after(deadline, f"{text!r} was not logged")
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Send a signal, wait for the end, and return the exit code (negative: died by that signal)."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def _wait(self, path: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        with httpx.Client(base_url=self.url, timeout=5, trust_env=False) as client:
            while True:
                try:
                    if client.get(path).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass
                self._fail_after(deadline, f"no 200 from {path}")
                time.sleep(0.05)

    def _fail_after(self, deadline: float, what: str) -> None:
        if self.process.poll() is not None:
            raise RuntimeError(f"{what}: ended with {self.process.returncode}\n{self.read_log()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} in time\n{self.read_log()}")


@contextmanager
def running(
    command: Sequence[str], port: int, log: Path, environ: Mapping[str, str], *, folder: Path = REPOSITORY
) -> Iterator[Server]:
    """Start any server of ours; stop it by SIGTERM, then by SIGKILL, when the block ends.

    Args:
        command: Program and arguments; started in a process group of its own.
        port: Where it is going to listen, on loopback.
        log: File for both of its streams.
        environ: Its whole environment.
        folder: Where it is started.
    """
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Server(process, f"http://127.0.0.1:{port}", log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def running_server(
    folder: Path, variables: Mapping[str, str], *, prefix: tuple[str, ...] = (), wait: bool = True
) -> Iterator[Server]:
    """Start the service on a free loopback port.

    Args:
        folder: Where the log goes; `MODELS_DIR` below it unless `variables` names another.
        variables: Settings, over defaults of a service that keeps to this machine.
        prefix: What runs `entrypoint.sh`, such as `("tini", "--")`.
        wait: Return only when the service is live.
    """
    port = free_port()
    defaults = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "MODELS_DIR": str(folder / "models"),
        "MODEL_DOWNLOAD": "0",
        # `auto` measures and may decide differently from one start to the next.
        "BACKEND": "onnxruntime",
    }
    environ = service_environ({**defaults, **variables})
    with running([*prefix, str(REPOSITORY / "entrypoint.sh")], port, folder / f"server-{port}.log", environ) as server:
        if wait:
            server.wait_until_live()
        yield server
