"""A fresh clone without any weights answers at once, and says what is answering."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.support.server import running_server


def test_starter_models_answer_and_are_announced(tmp_path: Path, body_of: Callable[..., Any]) -> None:
    """No model named, nothing in MODELS_DIR, no mirror, no download."""
    with (
        running_server(tmp_path, {"MODEL_MIRROR": "", "LOG_FORMAT": "json"}) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client,
    ):
        answer = client.post("/extract", json=body_of("t1.jpg", threshold=0.5)).json()
        info = client.get("/info").json()
        log = server.read_log()
    (picture,) = answer["data"]
    assert len(picture["faces"]) == 6
    assert {len(face["vec"]) for face in picture["faces"]} == {512}
    assert (info["models"]["det_name"], info["models"]["rec_name"]) == ("starter_det", "starter_rec")
    assert info["defaults"]["det_thresh"] == 0.5
    assert "jetface models pull" in info["notice"]
    assert info["notice"] in log
