"""Whoever reads the log, stops: the service goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.drawn import draw_group, encode
from tests.support.server import Server, free_port, service_environ
from tests.support.shared import REPOSITORY

pytestmark = pytest.mark.timeout(300)


@contextlib.contextmanager
def service_with_a_pipe(folder: Path, variables: dict[str, str]) -> Iterator[tuple[Server, int, int]]:
    """A started service, and both ends of the pipe that it logs to."""
    port = free_port()
    environ = service_environ(
        {"HOST": "127.0.0.1", "PORT": str(port), "MODELS_DIR": str(folder / "models"), "MODEL_DOWNLOAD": "0",
         "BACKEND": "onnxruntime", "DET_MODEL": "starter_det", "REC_MODEL": "starter_rec", **variables}
    )  # fmt: skip
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [REPOSITORY / "entrypoint.sh"], env=environ, stdout=writer, stderr=writer, start_new_session=True
    )
    log = folder / "log"
    log.touch()
    try:
        server = Server(process, f"http://127.0.0.1:{port}", log)
        server.wait_until_live()
        yield server, reader, writer
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(reader)
        os.close(writer)


def fill(writer: int) -> None:
    """Leave no room in a pipe. By an open file of our own: others must not begin to fail where they would wait."""
    ours = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK)
    for length in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(ours, b"\n" * length)
    os.close(ours)


def drain(reader: int) -> str:
    """Read what is in a pipe now."""
    ours = os.open(f"/proc/self/fd/{reader}", os.O_RDONLY | os.O_NONBLOCK)
    pieces = []
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(ours, 2**20):
            pieces.append(piece)
    os.close(ours)
    return b"".join(pieces).decode()


def damaged_png() -> bytes:
    """A picture of which libpng itself writes a line to stderr."""
    noise = encode(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    return noise[: len(noise) // 2] + bytes(40) + noise[len(noise) // 2 + 40 :]


@pytest.mark.parametrize("num_workers", ["1", "2"])
def test_a_log_that_nobody_reads_freezes_nothing(tmp_path: Path, num_workers: str) -> None:
    """Requests are answered, lines are counted, and when somebody reads again the log says so."""
    picture, damaged = encode(draw_group()), damaged_png()
    variables = {"WORKERS": num_workers, "LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG"}
    with service_with_a_pipe(tmp_path, variables) as (server, reader, writer):
        fill(writer)

        def ask(body: bytes) -> int:
            header = {"content-type": "image/png"}
            return httpx.post(
                f"{server.url}/detect", content=body, headers=header, timeout=60, trust_env=False
            ).status_code

        for _ in range(20):
            assert ask(picture) == 200
            assert ask(damaged) in {200, 422}
        scrape = httpx.get(f"{server.url}/metrics", trust_env=False).text
        assert (
            sum(
                float(line.rsplit(" ", 1)[1]) for line in scrape.splitlines() if line.startswith("jetface_log_lines_dr")
            )
            > 0
        )

        drain(reader)
        for _ in range(20):
            assert ask(picture) == 200
        text = drain(reader)
        assert "log lines were dropped: nobody read them" in text
        assert '"event":"answered"' in text

        fill(writer)
        assert server.stop() == 0
