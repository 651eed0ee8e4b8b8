"""When models load, and what happens where they cannot."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from jetface.cli.main import main
from jetface.registry import default_registry_dir
from tests.support.drawn import draw_group, encode
from tests.support.file_server import Answer, file_server
from tests.support.server import Server, running_server, service_environ
from tests.support.shared import require_shared
from tests.unit.graphs.test_parts import MIXING, split

NUM_FIRST_REQUESTS = 32


def states(server: Server) -> dict[str, str]:
    """The state of every registry entry, by name."""
    models = httpx.get(f"{server.url}/models", trust_env=False).json()["models"]
    return {model["name"]: model["state"] for model in models}


def test_first_requests_load_each_model_once(
    tmp_path: Path, weights: dict[str, str], body_of: Callable[..., Any]
) -> None:
    """Thirty-two callers at once find nothing loaded: all are answered, and each model is loaded by one of them.

    Those who waited for a load are told, those who come later are not.
    """
    body = body_of("ifrest_Stallone.jpg")
    start = threading.Barrier(NUM_FIRST_REQUESTS)
    timings: list[str] = []
    with running_server(tmp_path, weights) as server:
        assert set(states(server).values()) == {"unloaded"}

        def extract(_number: int) -> int:
            start.wait()
            answer = httpx.post(f"{server.url}/extract", json=body, timeout=60, trust_env=False)
            timings.append(answer.headers["server-timing"])
            return len(answer.raise_for_status().json()["data"][0]["faces"])

        with ThreadPoolExecutor(NUM_FIRST_REQUESTS) as pool:
            assert list(pool.map(extract, range(NUM_FIRST_REQUESTS))) == [1] * NUM_FIRST_REQUESTS
        assert any("load;dur=" in timing for timing in timings)
        later = httpx.post(f"{server.url}/extract", json=body, timeout=60, trust_env=False)
        assert "load;dur=" not in later.headers["server-timing"]
        log = server.read_log()
    assert log.count('"model loading"') == 2
    assert log.count('"model serving"') == 2


def test_detection_alone_never_loads_the_recognizer(
    tmp_path: Path, weights: dict[str, str], body_of: Callable[..., Any]
) -> None:
    """Neither `/detect` nor `/extract` without embeddings needs it."""
    with running_server(tmp_path, weights) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        body = body_of("ifrest_Stallone.jpg", extract_embedding=False)
        (picture,) = client.post("/extract", json=body, timeout=60).raise_for_status().json()["data"]
        assert len(picture["faces"]) == 1
        client.post("/detect", json=body, timeout=60).raise_for_status()
        loaded = {name: state for name, state in states(server).items() if state != "unloaded"}
    assert loaded == {"det_500m": "serving"}


def test_preload_is_ready_when_warm(tmp_path: Path, weights: dict[str, str]) -> None:
    """With MODEL_PRELOAD=1 the first 200 of `/health/ready` finds both models serving."""
    with running_server(tmp_path, {**weights, "MODEL_PRELOAD": "1"}, wait=False) as server:
        server.wait_until_ready()
        found = states(server)
        log = server.read_log()
    assert found[weights["DET_MODEL"]] == found[weights["REC_MODEL"]] == "serving"
    assert log.count('"model loading"') == 2


def test_missing_weights_say_what_to_do(tmp_path: Path, body_of: Callable[..., Any]) -> None:
    """Ready, since models load lazily; then 503 with the model's name, and in the log file, checksum and three ways.

    The next request tries again.
    """
    variables = {"DET_MODEL": "det_500m", "REC_MODEL": "none", "MODEL_MIRROR": "", "LOG_FORMAT": "json"}
    with running_server(tmp_path, variables) as server:
        assert httpx.get(f"{server.url}/health/ready", trust_env=False).status_code == 200
        body = body_of("ifrest_Stallone.jpg", extract_embedding=False)
        for _ in range(2):
            answer = httpx.post(f"{server.url}/extract", json=body, trust_env=False)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "model_file"
            assert str(tmp_path) not in answer.text
        log = server.read_log()
    assert log.count('"model failed to load"') == 2
    for part in ("det_500m.onnx", "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a"):
        assert part in log
    for way in ("MODELS_DIR", "MODEL_MIRROR", "MODEL_DOWNLOAD"):
        assert way in log


@contextmanager
def downloading_server(
    folder: Path, weights: dict[str, str], *, gate: threading.Event, **variables: str
) -> Iterator[tuple[Server, httpx.Client]]:
    """Yield a service that has its detector, whose recognizer stops half-way until `gate` is set; and its client."""
    models, det, rec = Path(weights["MODEL_MIRROR"]), weights["DET_MODEL"], weights["REC_MODEL"]
    (folder / "models").mkdir()
    (folder / "models" / f"{det}.onnx").symlink_to(models / f"{det}.onnx")
    slow = Answer((models / f"{rec}.onnx").read_bytes(), pause_s=60, gate=gate)
    with file_server({f"/{rec}.onnx": slow}) as mirror:
        here = {"MODELS_DIR": str(folder / "models"), "MODEL_MIRROR": mirror.url, "MODEL_DOWNLOAD": "1"}
        with (
            running_server(folder, {**weights, **here, **variables}) as server,
            httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client,
        ):
            yield server, client


def test_a_slow_download_is_told_and_holds_up_no_other_model(
    tmp_path: Path, weights: dict[str, str], body_of: Callable[..., Any]
) -> None:
    """The recognizer comes slowly: 504 says how far it is, while the detector, which is here, answers."""
    rec, body, gate = weights["REC_MODEL"], body_of("ifrest_Stallone.jpg"), threading.Event()
    with downloading_server(tmp_path, weights, gate=gate, REQUEST_TIMEOUT_S="2") as (server, client):
        assert client.post("/detect", json=body, timeout=60).status_code == 200
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(httpx.post, f"{server.url}/extract", json=body, timeout=60, trust_env=False)
            server.wait_until_logged("downloading model")
            assert client.post("/detect", json=body, timeout=60).status_code == 200
            assert not waiting.done()
            answer = waiting.result()
        assert answer.status_code == 504
        error = answer.json()["error"]
        assert error["code"] == "deadline_exceeded"
        assert f"while model {rec} was being loaded: downloading, " in error["message"]
        assert error["details"]["model"] == rec
        assert error["details"]["phase"] == "downloading"
        assert 0.4 < error["details"]["progress"] < 0.6
        assert int(answer.headers["retry-after"]) >= 1
        ready = client.get("/health/ready").json()["models"][rec]
        assert ready["state"] == "loading"
        assert ready["reason"].startswith("downloading, ")
        gate.set()
        while states(server)[rec] != "serving":
            time.sleep(0.05)
        assert client.post("/extract", json=body, timeout=60).status_code == 200


def test_those_who_wait_for_a_model_take_nothing_from_those_who_do_not(
    tmp_path: Path, weights: dict[str, str], body_of: Callable[..., Any]
) -> None:
    """Neither a place nor the pixels of their pictures: each is answered, or told how far the load is."""
    rec, body, gate = weights["REC_MODEL"], body_of("ifrest_Stallone.jpg"), threading.Event()
    narrow = {"MAX_IN_FLIGHT": "4", "MAX_IMAGE_PIXELS": "300000", "DECODE_BUDGET_PIXELS": "300000"}
    with (
        ThreadPoolExecutor(12) as pool,
        downloading_server(tmp_path, weights, gate=gate, **narrow) as (server, client),
    ):

        def extract() -> httpx.Response:
            while True:  # who comes while four others are decoded comes again
                answer = httpx.post(f"{server.url}/extract", json=body, timeout=60, trust_env=False)
                if answer.status_code != 429:
                    return answer
                time.sleep(0.05)

        client.post("/detect", json=body).raise_for_status()
        waiting = [pool.submit(extract)]
        while not str(client.get("/health/ready").json()["models"][rec].get("reason")).startswith("downloading, "):
            time.sleep(0.02)
        waiting += [pool.submit(extract) for _ in range(11)]
        while "jetface_requests_aside 4" not in client.get("/metrics").text:
            time.sleep(0.02)
        while sum(each.done() for each in waiting) < 8:
            time.sleep(0.02)
        statuses = [client.post("/detect", json=body).status_code for _ in range(20)]
        assert "jetface_requests_aside 4" in client.get("/metrics").text
        gate.set()
        answers = [each.result() for each in waiting]
    assert statuses == [200] * 20
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 8
    for refused in (answer for answer in answers if answer.status_code == 503):
        error = refused.json()["error"]
        assert error["code"] == "model_loading"
        assert (error["details"]["model"], error["details"]["phase"]) == (rec, "downloading")
        assert int(refused.headers["retry-after"]) >= 1


KEY = {"x-api-key": "k"}


def resident_bytes(client: httpx.Client) -> float:
    """Memory of the process, as its metrics say."""
    metrics = client.get("/metrics", headers=KEY).text
    return float(re.findall(r"^process_resident_memory_bytes (\S+)$", metrics, re.MULTILINE)[0])


def test_a_model_is_unloaded_loaded_and_reloaded_by_whoever_has_the_key(
    tmp_path: Path, weights: dict[str, str], body_of: Callable[..., Any]
) -> None:
    """A new entry and a changed file are seen; memory comes back; a model that cannot be loaded leaves the former."""
    det, rec = weights["DET_MODEL"], weights["REC_MODEL"]
    folder = tmp_path / "models"
    folder.mkdir()
    body = body_of("ifrest_Stallone.jpg")
    with (
        running_server(tmp_path, {**weights, "MODELS_DIR": str(folder), "API_KEYS": "k"}) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=120) as client,
    ):
        for action in ("load", "unload", "reload"):
            assert client.post(f"/models/{det}/{action}").status_code == 401
            assert client.post(f"/models/huge/{action}", headers=KEY).status_code == 404
        loaded = client.post(f"/models/{rec}/load", headers=KEY).raise_for_status().json()
        assert loaded["state"] == "serving"
        sha256 = hashlib.sha256((Path(weights["MODEL_MIRROR"]) / f"{rec}.onnx").read_bytes()).hexdigest()
        assert loaded["sha256"] == sha256
        client.post("/extract", json=body, headers=KEY).raise_for_status()
        before = resident_bytes(client)
        unloaded = client.post(f"/models/{rec}/unload", headers=KEY).raise_for_status().json()
        assert (unloaded["state"], unloaded["sha256"], unloaded["backend"]) == ("unloaded", None, None)
        assert resident_bytes(client) < before - 10 * 2**20
        assert client.get("/health/ready").status_code == 200
        client.post("/extract", json=body, headers=KEY).raise_for_status()

        entry = (default_registry_dir() / f"{det}.toml").read_text()
        (folder / "mine.toml").write_text(entry.replace(f'"{det}"', '"mine"'))
        (folder / "mine.onnx").symlink_to(Path(weights["MODEL_MIRROR"]) / f"{det}.onnx")
        assert client.post("/models/mine/load", headers=KEY).raise_for_status().json()["state"] == "serving"

        (folder / "mine.toml").write_text(entry.replace(f'"{det}"', '"mine"').replace('sha256 = "5e', 'sha256 = "00'))
        refused = client.post("/models/mine/reload", headers=KEY)
        assert refused.status_code == 503
        assert "another checksum" in refused.json()["error"]["message"]
        assert client.get("/models/mine", headers=KEY).json()["state"] == "serving"
        (folder / "mine.toml").write_text("this is no TOML")
        client.post(f"/models/{rec}/reload", headers=KEY).raise_for_status()
        refused = client.post("/models/mine/reload", headers=KEY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_contract")
        assert "mine.toml" in refused.json()["error"]["message"]
        client.post("/extract", json=body, headers=KEY).raise_for_status()


def test_an_idle_model_gives_its_memory_back_and_comes_again(
    tmp_path: Path, weights: dict[str, str], body_of: Callable[..., Any]
) -> None:
    """With `MODEL_TTL_S`; the service stays ready, though its models were to be loaded before."""
    variables = {**weights, "MODEL_TTL_S": "1", "MODEL_PRELOAD": "1", "METRICS_OPEN": "1"}
    with (
        running_server(tmp_path, variables, wait=False) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=120) as client,
    ):
        server.wait_until_live()
        for _ in range(2):
            client.post("/extract", json=body_of("ifrest_Stallone.jpg")).raise_for_status()
            deadline = time.monotonic() + 60
            while set(states(server).values()) != {"unloaded"}:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert client.get("/health/ready").status_code == 200
        assert "No request needed it for 1 s." in server.read_log()


def test_models_of_ones_own_are_served_as_exporters_write_them(
    tmp_path: Path, weights: dict[str, str], body_of: Callable[..., Any]
) -> None:
    """With functions, with weights beside the file, and with a batch that is declared and mixes: added by the command.

    A file in the folder that is no entry is told and costs nothing.
    """
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "broken.toml").write_text('name = "broken"')
    (tmp_path / "mixing.onnx").write_bytes(MIXING["items turned round"])
    files = {
        "rec_functions": require_shared("cases", "graphs", "rec_functions.onnx"),
        "beside": split(tmp_path, "beside"),
        "mixing": tmp_path / "mixing.onnx",
    }
    for name, file in files.items():
        added = CliRunner().invoke(
            main, ["models", "add", str(file), "--family", "arcface", "--name", name], env={"MODELS_DIR": str(folder)}
        )
        assert added.exit_code == 0, added.stderr
    variables = {**weights, "MODELS_DIR": str(folder), "REC_MODEL": "rec_functions"}
    with running_server(tmp_path, variables) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        body = body_of("ifrest_Stallone.jpg")
        (face,) = client.post("/extract", json=body, timeout=60).raise_for_status().json()["data"][0]["faces"]
        assert len(face["vec"]) == 128
        assert client.get("/models/mixing").json()["is_batch_free"] is None
        for name in ("beside", "mixing"):
            client.post(f"/models/{name}/load", timeout=60).raise_for_status()
        found = {name: client.get(f"/models/{name}").json()["is_batch_free"] for name in files}
        assert client.get("/models/broken").status_code == 404
        log = server.read_log()
    assert found == {"rec_functions": True, "beside": True, "mixing": False}
    assert "broken.toml: task: Field required" in log
    assert re.search(r"runs one item at a time.*mixing|mixing.*runs one item at a time", log)


@pytest.mark.parametrize("num_workers", ["1", "2"])
def test_sigterm_ends_it_while_a_model_downloads(tmp_path: Path, num_workers: str) -> None:
    """Within the grace, whoever waits for the model being told; the half of the file is no file."""
    grace_s = 5.0
    slow = Answer(b"onnx" * 1000, pause_s=600)
    with file_server({"/det_500m.onnx": slow}) as mirror, ThreadPoolExecutor(1) as pool:
        variables = {
            "DET_MODEL": "det_500m", "REC_MODEL": "none", "MODEL_MIRROR": mirror.url, "MODEL_PRELOAD": "1",
            "MODEL_DOWNLOAD": "1", "SHUTDOWN_GRACE_S": str(grace_s), "WORKERS": num_workers,
        }  # fmt: skip
        with running_server(tmp_path, variables) as server:
            picture = encode(draw_group())
            header = {"content-type": "image/png"}
            waiting = pool.submit(
                httpx.post, f"{server.url}/detect", content=picture, headers=header, timeout=60, trust_env=False
            )
            deadline = time.monotonic() + 60
            while not mirror.requests:
                assert time.monotonic() < deadline, server.read_log()
                time.sleep(0.05)
            time.sleep(1)
            started = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - started < grace_s + 1.5
            answer = waiting.result()
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    assert not (tmp_path / "models" / "det_500m.onnx").exists()


def test_sigterm_ends_it_while_loading_hangs(tmp_path: Path, weights: dict[str, str]) -> None:
    """In a call that nobody can interrupt: the weights lie where reading does not return."""
    models = tmp_path / "models"
    models.mkdir()
    os.mkfifo(models / "det_500m.onnx")
    variables = {**weights, "DET_MODEL": "det_500m", "REC_MODEL": "none", "MODEL_PRELOAD": "1", "SHUTDOWN_GRACE_S": "5"}
    with running_server(tmp_path, variables) as server:
        server.wait_until_logged("model loading")
        time.sleep(1)
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 6


def test_passwords_of_addresses_are_seen_nowhere(tmp_path: Path, body_of: Callable[..., Any]) -> None:
    """A mirror's and a proxy's: in no line at any level, no answer, no command."""
    with file_server({}) as mirror:
        variables = {
            "DET_MODEL": "det_500m", "REC_MODEL": "none", "MODEL_DOWNLOAD": "1", "LOG_LEVEL": "DEBUG",
            "MODEL_MIRROR": mirror.url.replace("//", "//me:hunter2@"),
            "HTTPS_PROXY": "http://me:hunter3@127.0.0.1:9", "MODELS_DIR": str(tmp_path / "models"),
        }  # fmt: skip
        with (
            running_server(tmp_path, variables) as server,
            httpx.Client(base_url=server.url, trust_env=False) as client,
        ):
            refused = client.post("/detect", json=body_of("ifrest_Stallone.jpg"), timeout=60)
            seen = [
                refused.text,
                *(client.get(path).text for path in ("/info", "/models", "/health/ready", "/metrics")),
            ]
            assert refused.status_code == 503
            assert "from the mirror, the server answered 404" in refused.json()["error"]["message"]
            assert "its proxy (HTTPS_PROXY) refuses the connection" in refused.json()["error"]["message"]
            log = server.read_log()
        for command in ("settings", "doctor"):
            done = subprocess.run(
                [Path(sys.executable).with_name("jetface"), command],
                env=service_environ(variables), capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            seen += [done.stdout, done.stderr]
    assert "downloading model" in log
    assert "Traceback" in log
    assert "hunter" not in "".join([log, *seen])
