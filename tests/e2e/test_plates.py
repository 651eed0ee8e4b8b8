"""Plates through a running service: off by default, read right when on, beside faces."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ormsgpack
import pytest

from tests.support.server import PLATES_ON, Server, running_server

TEXTS = ["SB90TZI", "B57ZFA"]
"""Of `traffic`; another on it is too small to be sure of."""
NO_PICTURE = b"no picture"


@pytest.fixture(scope="module")
def server(weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that reads plates."""
    variables = {**weights, **PLATES_ON, "LOG_LEVEL": "DEBUG"}
    with running_server(tmp_path_factory.mktemp("plates"), variables) as started:
        yield started


def body_of(*pictures: bytes, **options: Any) -> dict[str, Any]:
    return {"images": {"data": [base64.b64encode(content).decode() for content in pictures]}, **options}


def sure_texts(slot: dict[str, Any]) -> list[str]:
    """Texts of the plates that are wide enough to be sure of, largest score first."""
    assert slot["status"] == "ok"
    return [plate["text"] for plate in slot["plates"] if plate["text"] in TEXTS]


def test_a_picture_is_read_right_whatever_its_body(client: httpx.Client, traffic: bytes) -> None:
    packed = ormsgpack.packb({"images": {"data": [traffic]}})
    answers = [
        client.post("/plates", json=body_of(traffic)),
        client.post("/plates", content=packed, headers={"content-type": "application/msgpack"}),
        client.post("/plates", files={"file": traffic}),
        client.post("/plates", content=traffic, headers={"content-type": "image/jpeg"}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        (slot,) = answer.json()["pictures"]
        assert sure_texts(slot) == TEXTS
        assert slot["image_hw"] == [720, 1280]
        for plate in slot["plates"]:
            assert set(plate) == {"box", "score", "text", "confidence", "characters"}
            assert "".join(each["character"] for each in plate["characters"]) == plate["text"]
            mean = sum(each["confidence"] for each in plate["characters"]) / len(plate["characters"])
            assert plate["confidence"] == pytest.approx(mean, abs=1e-4)


def test_options_say_which_plates_are_read(client: httpx.Client, traffic: bytes) -> None:
    def texts(**options: Any) -> list[str]:
        (slot,) = client.post("/plates", json=body_of(traffic, **options)).json()["pictures"]
        return [plate["text"] for plate in slot["plates"]]

    assert texts(limit=1) == TEXTS[:1]
    assert texts(min_width=200) == TEXTS[:1]
    assert texts(threshold=0.99) == []
    refused = client.post("/plates", json=body_of(traffic, threshold=2))
    assert refused.status_code == 422
    assert "threshold" in refused.json()["error"]["message"]


def test_a_picture_that_cannot_be_read_fails_alone(client: httpx.Client, traffic: bytes) -> None:
    answer = client.post("/plates", json=body_of(traffic, NO_PICTURE, traffic)).json()
    first, broken, last = answer["pictures"]
    assert sure_texts(first) == sure_texts(last) == TEXTS
    assert broken["status"] == "failed"
    assert broken["error"]["code"] == "image_decode"
    assert broken["plates"] == []


def test_models_metrics_and_log_tell_of_plates(server: Server, client: httpx.Client, traffic: bytes) -> None:
    assert client.post("/plates", json=body_of(traffic)).status_code == 200
    models = {model["name"]: model for model in client.get("/models").json()["models"]}
    for name in ("starter_plate", "plate_ocr_cct_xs"):
        assert models[name]["is_active"]
        assert models[name]["state"] == "serving"
        assert models[name]["is_batch_free"]
    assert client.get("/info").json()["plates"] is True
    metrics = client.get("/metrics").text
    (count,) = [line for line in metrics.splitlines() if line.startswith("jetface_plates_per_picture_count")]
    assert float(count.split()[-1]) >= 1
    assert 'jetface_run_seconds_count{model="plate_ocr_cct_xs"}' in metrics
    log = server.read_log()
    assert "plates read" in log
    assert not any(text in log for text in TEXTS)


def test_faces_are_found_beside_plates(client: httpx.Client, shared_images: Path) -> None:
    answer = client.post("/detect", json=body_of((shared_images / "t1.jpg").read_bytes()))
    assert len(answer.json()["pictures"][0]["faces"]) == 6


def test_a_service_may_read_plates_alone(weights: dict[str, str], tmp_path: Path, traffic: bytes) -> None:
    """Nothing of faces is loaded, not even ahead; who asks for them is told why there are none."""
    variables = {
        **weights, **PLATES_ON, "DET_MODEL": "none", "REC_MODEL": "none", "MODEL_PRELOAD": "1", "RESULT_CACHE_MB": "8",
    }  # fmt: skip
    with (
        running_server(tmp_path, variables) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client,
    ):
        server.wait_until_ready()
        (slot,) = client.post("/plates", json=body_of(traffic)).json()["pictures"]
        assert sure_texts(slot) == TEXTS
        (again,) = client.post("/plates", content=traffic, headers={"content-type": "image/jpeg"}).json()["pictures"]
        assert {**again, "took_ms": 0} == {**slot, "took_ms": 0}
        assert 'jetface_result_cache_total{outcome="hit"} 1.0' in client.get("/metrics").text
        active = {model["name"] for model in client.get("/models").json()["models"] if model["is_active"]}
        assert active == {"starter_plate", "plate_ocr_cct_xs"}
        info = client.get("/info").json()
        assert (info["plates"], info["models"]["det_name"], info["models"]["rec_name"]) == (True, None, None)
        assert "starter_plate" in info["notice"]
        for route in ("/extract", "/detect", "/recognize"):
            answer = client.post(route, json=body_of(traffic))
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "model_unavailable"
            assert "is configured" in answer.json()["error"]["message"]


def test_off_it_says_how_to_turn_it_on(weights: dict[str, str], tmp_path: Path, traffic: bytes) -> None:
    with (
        running_server(tmp_path, weights) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client,
    ):
        answer = client.post("/plates", json=body_of(traffic))
        assert answer.status_code == 404
        assert "PLATE_DET_MODEL=starter_plate" in answer.json()["error"]["message"]
        assert "PLATE_OCR_MODEL=plate_ocr_cct_xs" in answer.json()["error"]["message"]
        assert client.get("/info").json()["plates"] is False
        models = {model["name"]: model for model in client.get("/models").json()["models"]}
        assert not models["starter_plate"]["is_active"]
