"""`jetface bulk` on Ray, in network namespaces, as Ray listens on all addresses: nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.drawn import PEOPLE, draw_portrait, encode
from tests.support.namespaces import Lan, require_namespaces
from tests.support.server import service_environ

pytest.importorskip("ray", reason="Ray is not installed: requirements/dev.txt has it")

NUM_PICTURES = 160
CHUNK = 8
PATIENCE_S = 240.0
"""Ray takes half a minute to start where other tests run beside it."""

pytestmark = pytest.mark.timeout(800)


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    require_namespaces()
    with Lan(resolver="10.77.0.53", search="example") as found:
        try:
            for number, host in enumerate(("host-1", "host-2"), start=1):
                found.add_host(host, f"10.77.{number}.1")
            yield found
        finally:
            for host in ("host-1", "host-2"):
                with contextlib.suppress(subprocess.CalledProcessError):
                    found.kill(host)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Portraits of one face each, and one file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(NUM_PICTURES - 1):
        name = folder / f"{number % 7}" / f"{number:04d}.jpg"
        name.parent.mkdir(exist_ok=True)
        name.write_bytes(encode(draw_portrait(PEOPLE[number % len(PEOPLE)]), ".jpg"))
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    variables = {
        "MODELS_DIR": str(tmp_path / "models"),
        "MODEL_DOWNLOAD": "0",
        "DET_MODEL": "starter_det",
        "REC_MODEL": "starter_rec",
        "BACKEND": "onnxruntime",
        "CPU_THREADS": "1",
        "MAX_SIZE": "320,320",
        # A lost machine is one within seconds.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        # Other tests run beside these.
        "RAY_raylet_start_wait_time_s": "200",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Who asks a cluster needs its token; `ray get-auth-token` makes one for people.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    }
    return service_environ(variables)


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def start(lan: Lan, host: str, command: Sequence[str], environ: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        return subprocess.Popen(
            lan.command(host, *command), env=environ, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )


def wait_until(happened: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


def rows(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in sorted(out.glob("*.parquet"))])


def is_whole(out: Path, pictures: Path) -> None:
    """Every picture is there once, each with its face, and the broken one with its error."""
    found = rows(out)
    counts = Counter(zip(found["path"].to_pylist(), found["face_index"].to_pylist(), strict=True))
    assert set(counts.values()) == {1}
    paths = {str(path) for path in pictures.rglob("*.jpg")}
    assert {path for path, _ in counts} == paths
    assert {index for path, index in counts if not path.endswith("broken.jpg")} == {0}
    assert [
        path for path, error in zip(found["path"].to_pylist(), found["error"].to_pylist(), strict=True) if error
    ] == [str(pictures / "broken.jpg")]


def test_what_is_killed_is_taken_up(lan: Lan, pictures: Path, environ: dict[str, str], tmp_path: Path) -> None:
    """SIGKILL of the driver amid a run on this machine alone; the second run does what is left."""
    out, log = tmp_path / "out", tmp_path / "log"
    command = [program("jetface"), "bulk", str(pictures), "--out", str(out), "--chunk", str(CHUNK)]
    first = start(lan, "host-1", command, environ, log)
    wait_until(lambda: len(list(out.glob("*.parquet"))) >= 5, log)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    lan.kill("host-1")  # what Ray would take some seconds for
    num_before = rows(out).num_rows
    assert 5 * CHUNK <= num_before < NUM_PICTURES
    done = subprocess.run(
        lan.command("host-1", *command), env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1, done.stderr
    assert f"1 of {NUM_PICTURES - num_before} pictures failed" in done.stderr
    assert f"{num_before} more were there" in done.stdout
    is_whole(out, pictures)
    again = subprocess.run(
        lan.command("host-1", *command), env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert again.returncode == 0
    assert f"0 faces in 0 pictures, {NUM_PICTURES} more were there" in again.stdout


def test_a_lost_machine_loses_nothing(lan: Lan, pictures: Path, environ: dict[str, str], tmp_path: Path) -> None:
    """Two machines of one core each, of which one goes amid the run: the job ends, and each row is there once."""
    out, log = tmp_path / "out", tmp_path / "log"
    size = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
    head = ["start", "--head", "--node-ip-address=10.77.1.1", "--port=6379", "--include-dashboard=false", *size]
    worker = ["start", "--address=10.77.1.1:6379", "--node-ip-address=10.77.2.1", *size]
    head_log, worker_log = tmp_path / "head.log", tmp_path / "worker.log"
    nodes = [start(lan, "host-1", [program("ray"), *head], environ, head_log)]
    try:
        wait_until(lambda: "Ray runtime started" in head_log.read_text(), head_log)
        nodes.append(start(lan, "host-2", [program("ray"), *worker], environ, worker_log))
        wait_until(lambda: "Ray runtime started" in worker_log.read_text(), worker_log)
        command = [program("jetface"), "bulk", str(pictures), "--out", str(out), "--chunk", str(CHUNK)]
        nodes.append(start(lan, "host-1", [*command, "--address", "10.77.1.1:6379"], environ, log))
        wait_until(lambda: len(list(out.glob("*.parquet"))) >= 5, log)
        lan.kill("host-2")
        assert nodes[-1].wait(PATIENCE_S) == 1, log.read_text()[-3000:]
    finally:
        lan.kill("host-1")
        for node in nodes:
            node.wait(PATIENCE_S)
    is_whole(out, pictures)


def test_too_many_errors_end_the_run(lan: Lan, environ: dict[str, str], tmp_path: Path) -> None:
    """What was looked at by then is kept, and the picture after it is not waited for."""
    folder, out = tmp_path / "broken", tmp_path / "out"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.jpg").write_bytes(b"no picture")
    command = [program("jetface"), "bulk", str(folder), "--out", str(out), "--chunk", "1", "--max-errors", "2"]
    done = subprocess.run(
        lan.command("host-1", *command), env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "stopped: 3 pictures failed, and --max-errors is 2" in done.stderr
    assert rows(out).num_rows >= 3
