"""`entrypoint.sh`: how the service starts, and how it ends under a real init."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.server import free_port, running, running_server, service_environ
from tests.support.shared import REPOSITORY

TINI = shutil.which("tini")


@pytest.fixture
def tini() -> str:
    """Path of the real tini, Debian's; CI installs it."""
    if TINI is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "tini is not installed (Debian and Ubuntu: apt install tini)"
        )
    return TINI


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("PORT", "http", "Error: PORT='http' is not allowed: integer from 1 to 65535"),
        ("BACKEND", "cuda", "Error: BACKEND='cuda' is not allowed: auto, onnxruntime, openvino or tensorrt"),
        (
            "MAX_SIZE",
            "640",
            "Error: MAX_SIZE='640' is not allowed: width,height, from 32 to 8192, rounded down to multiples of 32",
        ),
    ],
)
def test_a_bad_setting_is_one_line(variable: str, value: str, line: str) -> None:
    """The start stops with exit code 3, and stderr holds nothing else."""
    done = subprocess.run(
        [REPOSITORY / "entrypoint.sh"],
        env=service_environ({variable: value}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", f"{line}\n")


def test_a_port_in_use_is_one_line_with_what_mends_it(tmp_path: Path) -> None:
    """Found before the server starts and loads what it needs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = subprocess.run(
            [REPOSITORY / "entrypoint.sh"],
            env=service_environ({"HOST": "127.0.0.1", "PORT": str(port), "MODELS_DIR": str(tmp_path)}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout) == (3, "")
    *_, line = done.stderr.splitlines()
    assert line.startswith(f"Error: Port {port} of 127.0.0.1 is in use.")
    assert "set PORT to another" in line
    assert "Traceback" not in done.stderr


def test_what_is_not_as_it_should_be_is_logged_before_the_start(tmp_path: Path) -> None:
    """A folder that cannot be written does not stop it."""
    with running_server(tmp_path, {"TRT_ENGINE_CACHE_PATH": "/proc/engines", "MODELS_DIR": "/proc/models"}) as server:
        log = server.read_log()
    assert log.index("MODELS_DIR=/proc/models cannot be written") < log.index("service built")


def test_an_unknown_model_is_one_line(tmp_path: Path) -> None:
    """A registry name nobody knows stops the start too, and says so without a traceback."""
    with running_server(tmp_path, {"DET_MODEL": "scrfd_11g"}, wait=False) as server:
        assert server.process.wait(60) != 0
        log = server.read_log()
    assert "scrfd_11g" in log
    assert "DET_MODEL" in log
    assert "Traceback" not in log


def test_the_shell_becomes_the_server(tmp_path: Path) -> None:
    """One process with one event loop and no reloader: signals need nobody to pass them on."""
    with running_server(tmp_path, {}) as server:
        process = psutil.Process(server.process.pid)
        command = process.cmdline()
        assert command[-1] == "serve"
        assert process.children() == []


def test_jetface_serve_is_the_same_service(tmp_path: Path) -> None:
    """Started by hand it says what is wrong, answers and drains alike."""
    port = free_port()
    environ = service_environ({"HOST": "127.0.0.1", "PORT": str(port), "MODELS_DIR": str(tmp_path)})
    with running(["jetface", "serve"], port, tmp_path / "log", environ) as server:
        server.wait_until_live()
        assert server.stop(timeout_s=5) == 0
        assert "open-to-all" in server.read_log()
        assert "draining" in server.read_log()


class TestDlaCompiler:
    """TensorRT 10.3 needs libnvdla_compiler.so, which hosts of JetPack 6 mount and those of JetPack 7 do not have."""

    LIBRARY = "libnvdla_compiler.so"

    def search_path(self, tmp_path: Path, mounted: str | None, carried: str | None) -> list[str]:
        """Start it with a program that prints what ld.so would search, in a tree with these files."""
        for folder, content in (("nvidia", mounted), ("dla", carried)):
            (tmp_path / folder).mkdir()
            if content is not None:
                (tmp_path / folder / self.LIBRARY).write_text(content, encoding="utf-8")
        program = tmp_path / "bin/jetface"
        program.parent.mkdir()
        program.write_text('#!/bin/sh\necho "$*" "$LD_LIBRARY_PATH"\n', encoding="utf-8")
        program.chmod(0o755)
        done = subprocess.run(
            [REPOSITORY / "entrypoint.sh", "engine", "list"],
            env={
                "PATH": f"{program.parent}:{os.environ['PATH']}",
                "LD_LIBRARY_PATH": f"{tmp_path}/nvidia:{tmp_path}/tegra",
                "DLA_COMPILER_DIR": f"{tmp_path}/dla",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        words, folders = done.stdout.rstrip("\n").rsplit(" ", 1)
        assert words == "engine list"
        return [Path(folder).name for folder in folders.split(":")]

    @pytest.mark.parametrize("mounted", [None, ""], ids=["missing", "empty"])
    def test_the_image_s_copy_stands_in_for_one_that_is_not_mounted(self, tmp_path: Path, mounted: str | None) -> None:
        """First: ld.so ends its search at an empty file."""
        assert self.search_path(tmp_path, mounted, "library") == ["dla", "nvidia", "tegra"]

    @pytest.mark.parametrize("carried", [None, "", "library"], ids=["missing", "empty", "there"])
    def test_the_host_s_own_wins(self, tmp_path: Path, carried: str | None) -> None:
        assert self.search_path(tmp_path, "library", carried) == ["nvidia", "tegra"]

    @pytest.mark.parametrize("carried", [None, ""], ids=["missing", "empty"])
    def test_where_the_image_has_none_nothing_changes(self, tmp_path: Path, carried: str | None) -> None:
        assert self.search_path(tmp_path, None, carried) == ["nvidia", "tegra"]


def test_it_works_from_any_folder(tmp_path: Path) -> None:
    """The script's own place does not matter; a relative MODELS_DIR is relative to the caller's folder."""
    done = subprocess.run(
        [REPOSITORY / "entrypoint.sh"],
        cwd=tmp_path,
        env=service_environ({"PORT": "0"}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("Error: PORT=")


def test_sigterm_under_tini_drains(
    tmp_path: Path, weights: dict[str, str], body_of: Callable[..., Any], tini: str
) -> None:
    """Requests in flight are answered, new ones get 503 shutting_down, the exit code is 0, all within the grace."""
    grace_s = 60.0
    crowd = body_of(*["ifrest_lumia.jpg"] * 2, threshold=0.5)
    variables = {**weights, "MODEL_PRELOAD": "1", "SHUTDOWN_GRACE_S": str(grace_s)}
    with running_server(tmp_path, variables, prefix=(tini, "--")) as server, ThreadPoolExecutor(3) as pool:
        server.wait_until_ready()

        def extract() -> httpx.Response:
            return httpx.post(f"{server.url}/extract", json=crowd, timeout=60, trust_env=False)

        with httpx.Client(base_url=server.url, trust_env=False) as kept_alive:
            kept_alive.get("/health/ready").raise_for_status()
            in_flight = [pool.submit(extract) for _ in range(3)]
            while "jetface_requests_in_flight 3" not in kept_alive.get("/metrics").text:
                time.sleep(0.01)
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            server.wait_until_logged("draining")

            for caller in (kept_alive, httpx):
                refused = caller.post(str(httpx.URL(server.url).join("/extract")), json=body_of("t1.jpg"))
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "shutting_down"
                assert int(refused.headers["retry-after"]) >= 1
            assert httpx.get(f"{server.url}/health/ready", trust_env=False).status_code == 503
            assert httpx.get(f"{server.url}/health/live", trust_env=False).status_code == 200

        for answer in in_flight:
            pictures = answer.result().raise_for_status().json()["data"]
            assert [len(picture["faces"]) >= 110 for picture in pictures] == [True, True]
        assert server.process.wait(grace_s) == 0
        assert time.monotonic() - started < grace_s


def test_the_grace_is_kept(tmp_path: Path, weights: dict[str, str], body_of: Callable[..., Any], tini: str) -> None:
    """Work that outlasts the grace is given up: its callers are told, and the process ends in time."""
    grace_s = 4.0
    crowds = body_of(*["ifrest_lumia.jpg"] * 16)
    variables = {**weights, "MODEL_PRELOAD": "1", "SHUTDOWN_GRACE_S": str(grace_s)}
    with running_server(tmp_path, variables, prefix=(tini, "--")) as server, ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(httpx.post, f"{server.url}/extract", json=crowds, timeout=60, trust_env=False)
        while "jetface_requests_in_flight 1" not in httpx.get(f"{server.url}/metrics", trust_env=False).text:
            time.sleep(0.01)
        started = time.monotonic()
        assert server.stop(timeout_s=grace_s + 5) == 0
        assert time.monotonic() - started < grace_s + 0.5
        answer = in_flight.result()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")


def test_an_idle_service_ends_at_once(tmp_path: Path, tini: str) -> None:
    """Nothing in flight: exit code 0 in a moment, and the log says how it ended."""
    with running_server(tmp_path, {}, prefix=(tini, "--")) as server:
        assert server.stop(timeout_s=5) == 0
        assert "draining" in server.read_log()


@pytest.mark.parametrize(
    ("trusted", "client"),
    [
        pytest.param("", "127.0.0.1", id="nobody is trusted"),
        pytest.param("127.0.0.0/8,192.0.2.7", "203.0.113.9", id="the proxies are"),
        pytest.param("192.0.2.7", "127.0.0.1", id="another is"),
    ],
)
def test_behind_a_proxy_the_log_has_the_callers_address(tmp_path: Path, trusted: str, client: str) -> None:
    variables = {"FORWARDED_ALLOW_IPS": trusted, "ROOT_PATH": "/faces/", "LOG_FORMAT": "json"}
    with running_server(tmp_path, variables) as server:
        forwarded = {"x-forwarded-for": "nonsense, 203.0.113.9, 192.0.2.7"}
        answer = httpx.get(f"{server.url}/faces/info", headers=forwarded, trust_env=False)
        assert answer.status_code == 200
        httpx.get(f"{server.url}/models", headers={"x-forwarded-for": "key=value"}, trust_env=False)
        server.wait_until_logged('"/models"')
        lines = [json.loads(line) for line in server.read_log().splitlines() if '"answered"' in line]
        assert [line["client"] for line in lines if line["route"] == "/info"] == [client]
        assert "key=value" not in server.read_log()
