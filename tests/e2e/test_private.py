"""Nothing leaves the machine: no look-up and no connection, by the service, the command line, or their libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.support.drawn import draw_group, encode
from tests.support.server import running, service_environ
from tests.support.shared import REPOSITORY

pytestmark = pytest.mark.timeout(300)

LONG_ENOUGH_S = 15.0
"""ONNX Runtime makes its first call ten seconds after it was imported."""

WATCHED = ("unshare", "-rn", sys.executable, str(REPOSITORY / "tests/support/watched_network.py"))

IMPORT_AND_WAIT = f"import onnxruntime, time; time.sleep({LONG_ENOUGH_S})"

_HINDRANCES = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS")
"""Variables by which libraries that call their makers see that they are tested, and do not."""


@pytest.fixture(scope="module", autouse=True)
def _network() -> None:
    """A network of one's own is not to be had everywhere."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare or ip is not installed (Debian and Ubuntu: apt install util-linux iproute2)")
    done = subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no network namespace may be made here: {done.stderr.decode().strip()}")


def environ_of_a_person(home: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """An environment in which libraries do what they do at home."""
    home.mkdir(exist_ok=True)
    environ = service_environ({"HOME": str(home), "MODEL_DOWNLOAD": "0", **variables})
    return {name: value for name, value in environ.items() if name not in _HINDRANCES}


def packets_of(command: list[str], folder: Path, variables: Mapping[str, str] | None = None) -> list[str]:
    """Run a command, and return where it sent anything."""
    packets = folder / "packets"
    environ = environ_of_a_person(folder / "home", variables or {})
    subprocess.run([*WATCHED, str(packets), *command], env=environ, cwd=REPOSITORY, timeout=200, check=True)
    return packets.read_text().splitlines()


def test_a_look_up_would_be_seen(tmp_path: Path) -> None:
    """And a connection, to whatever address."""
    look = "import socket\ntry: socket.getaddrinfo('example.org', 443)\nexcept OSError: pass\n"
    connect = "socket.socket().connect_ex(('192.0.2.7', 443))\nimport time; time.sleep(0.3)"
    seen = packets_of([sys.executable, "-c", look + connect], tmp_path)
    assert any(packet.startswith("udp ") and packet.endswith(" 53") for packet in seen)
    assert "tcp 192.0.2.7 443" in seen


@pytest.mark.parametrize("num_workers", ["1", "2"])
def test_a_service_sends_nothing(tmp_path: Path, num_workers: str) -> None:
    """From its start to its end, while it serves on every backend of a CPU; and it leaves nothing under HOME."""
    uds, packets, home = tmp_path / "socket", tmp_path / "packets", tmp_path / "home"
    chosen = {"DET_MODEL": "starter_det", "REC_MODEL": "starter_rec", "MODEL_PRELOAD": "1", "BACKEND": "auto"}
    variables = {**chosen, "UDS": str(uds), "WORKERS": num_workers, "MODELS_DIR": str(tmp_path / "models")}
    command = [*WATCHED, str(packets), str(REPOSITORY / "entrypoint.sh")]
    with running(command, 0, tmp_path / "log", environ_of_a_person(home, variables)) as server:
        server.wait_until_logged("model serving", 120)
        started = time.monotonic()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(uds)), base_url="http://jetface", timeout=60) as client:
            while time.monotonic() - started < LONG_ENOUGH_S:
                picture = encode(draw_group())
                assert client.post("/detect", content=picture, headers={"content-type": "image/png"}).status_code == 200
                assert client.get("/metrics").status_code == 200
                time.sleep(0.5)
        assert server.stop() == 0
    assert packets.read_text().splitlines() == []
    assert [path for path in home.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "program",
    [
        f"import jetface, openvino; openvino.Core(); {IMPORT_AND_WAIT}",
        f"from jetface.main import create_app; create_app(); import openvino; {IMPORT_AND_WAIT}",
        f"import subprocess, sys, jetface; subprocess.run([sys.executable, '-c', {IMPORT_AND_WAIT!r}])",
    ],
    ids=["imports", "embedded", "a child"],
)
def test_a_program_that_imports_us_first_sends_nothing(tmp_path: Path, program: str) -> None:
    assert packets_of([sys.executable, "-c", program], tmp_path, {"MODELS_DIR": str(tmp_path)}) == []
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("command", [["doctor", "--json"], ["models", "list"]], ids=lambda command: command[0])
def test_a_command_sends_nothing(tmp_path: Path, command: list[str]) -> None:
    """Such as the one that imports every backend to report on it."""
    jetface = str(Path(sys.executable).with_name("jetface"))
    assert packets_of([jetface, *command], tmp_path, {"MODELS_DIR": str(tmp_path)}) == []


def test_every_library_that_calls_its_maker_is_told_not_to() -> None:
    """In tests, too."""
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert sys.modules["openvino_telemetry"] is None
