"""Engines behind the real HTTP service: built while it answers, kept, opened at the next start."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from tests.support.drawn import PEOPLE, draw_portrait
from tests.support.server import free_port, running, service_environ

PATIENCE_S = 100.0


@contextmanager
def serving(folder: Path, **variables: str) -> Iterator[httpx.Client]:
    """Serve starter models with the stand-in toolkit under uvicorn; yields a client."""
    port = free_port()
    settings = {
        "MODELS_DIR": str(folder), "MODEL_DOWNLOAD": "0", "BACKEND": "onnxruntime", "DET_MODEL": "starter_det",
        "REC_MODEL": "starter_rec", "FORCE_FP16": "0", "CPU_THREADS": "1", "MAX_SIZE": "256,256",
        "DET_SCALES": "1", "STAND_IN_LOG": str(folder / "builds.log"),
        **variables,
    }  # fmt: skip
    command = [sys.executable, "-m", "uvicorn", "--factory", "tests.support.stand_in_app:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--loop", "asyncio"]
    with running(command, port, folder / f"server-{port}.log", service_environ(settings)) as server:
        server.wait_until_live()
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            yield client


def extract(client: httpx.Client) -> httpx.Response:
    picture = cv2.imencode(".png", draw_portrait(PEOPLE[0]))[1].tobytes()
    return client.post("/extract", content=picture, headers={"content-type": "image/png"})


def vectors(answer: httpx.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    return np.array([face["vec"] for face in answer.json()["data"][0]["faces"]])


def states(client: httpx.Client) -> dict[str, Any]:
    return {name: model["engine"] for name, model in client.get("/health/ready").json()["models"].items()}


def until(client: httpx.Client, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, client.get("/health/ready").text
        time.sleep(0.05)


def all_serve(client: httpx.Client) -> bool:
    return {engine["state"] for engine in states(client).values()} == {"serving"}


@pytest.mark.timeout(240)
def test_it_answers_while_it_builds_and_keeps_what_it_built(tmp_path: Path) -> None:
    with serving(tmp_path, STAND_IN_STEP_S="0.3") as client:
        assert {engine["state"] for engine in states(client).values()} == {"absent"}
        before = vectors(extract(client))
        assert len(before) == 1
        until(client, lambda: any((engine["elapsed_s"] or 0) > 0.1 for engine in states(client).values()))
        assert client.get("/health/ready").status_code == 200
        assert 'jetface_engine_state{model="starter_det",state="building"}' in client.get("/metrics").text
        while not all_serve(client):
            np.testing.assert_allclose(vectors(extract(client)), before, atol=1e-3)
        np.testing.assert_allclose(vectors(extract(client)), before, atol=1e-3)
        backends = {model["name"]: model["backend"] for model in client.get("/models").json()["models"]}
        assert backends["starter_det"] == backends["starter_rec"] == "stand-in-fp32"
    assert len((tmp_path / "builds.log").read_text().splitlines()) == 2

    with serving(tmp_path) as client:
        np.testing.assert_allclose(vectors(extract(client)), before, atol=1e-3)
        assert all_serve(client)
    assert len((tmp_path / "builds.log").read_text().splitlines()) == 2


@pytest.mark.timeout(240)
def test_it_asks_for_patience_where_nothing_else_may_answer(tmp_path: Path) -> None:
    with serving(tmp_path, SERVE_WHILE_BUILDING="0", MODEL_PRELOAD="1", STAND_IN_STEP_S="0.3") as client:
        refused = extract(client)
        if refused.status_code != 200:
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] in {"model_building", "deadline_exceeded"}
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/health/live").status_code == 200
        until(client, lambda: client.get("/health/ready").status_code == 200)
        assert all_serve(client)
        assert len(vectors(extract(client))) == 1
