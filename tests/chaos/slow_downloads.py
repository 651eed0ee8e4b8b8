"""A mirror that takes 20 s for the recognizer, while the detector's file is here, and a damaged file beside it.

Wanted: whoever needs the detector alone loses nothing; whoever needs both is told how far the download is and when to
come back; the damaged file is put aside and fetched again.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.support.file_server import Answer, file_server
from tests.support.server import Server, running_server
from tests.support.shared import shared_dir

_PAUSE_S = 20.0
_TIMEOUT_S = 3.0
_DET, _REC = "det_500m", "w600k_mbf_dequantized"


def run() -> list[dict[str, object]]:
    """Ask two routes, again and again, until the recognizer has been there for a while."""
    weights = shared_dir() / "models"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = (shared_dir() / "images" / "ifrest_Stallone.jpg").read_bytes()
        models = folder / "models"
        models.mkdir()
        (models / f"{_DET}.onnx").write_bytes((weights / f"{_DET}.onnx").read_bytes())
        body = (weights / f"{_REC}.onnx").read_bytes()
        (models / f"{_REC}.onnx").write_bytes(body[:-1])
        with file_server({f"/{_REC}.onnx": Answer(body, pause_s=_PAUSE_S)}) as mirror:
            variables = {
                "DET_MODEL": _DET, "REC_MODEL": _REC, "MODELS_DIR": str(models), "MODEL_MIRROR": mirror.url,
                "MODEL_DOWNLOAD": "1", "REQUEST_TIMEOUT_S": str(_TIMEOUT_S),
            }  # fmt: skip
            with running_server(folder, variables) as server, ThreadPoolExecutor(2) as pool:
                _ask(server, "/detect", picture)
                end = time.monotonic() + _PAUSE_S + 10
                asked = {route: pool.submit(_keep_asking, server, route, picture, end) for route in _ROUTES}
                rows = [_row(route, rows.result()) for route, rows in asked.items()]
        aside = (models / f"{_REC}.onnx.damaged").exists()
    return [{**row, "damaged file put aside": "yes" if aside else "no"} for row in rows]


_ROUTES = {"/detect": "needs what is here", "/extract": "needs both"}


def _ask(server: Server, route: str, body: bytes) -> httpx.Response:
    headers = {"content-type": "image/jpeg"}
    return httpx.post(f"{server.url}{route}", content=body, headers=headers, timeout=60, trust_env=False)


def _keep_asking(server: Server, route: str, body: bytes, end: float) -> Iterator[tuple[float, httpx.Response]]:
    answers = []
    while time.monotonic() < end:
        started = time.perf_counter()
        answer = _ask(server, route, body)
        answers.append((time.perf_counter() - started, answer))
        if answer.status_code != httpx.codes.OK:
            time.sleep(min(float(answer.headers.get("retry-after", 1)), 2.0))
    return iter(answers)


def _row(route: str, answers: Iterator[tuple[float, httpx.Response]]) -> dict[str, object]:
    found = list(answers)
    statuses = Counter(answer.status_code for _, answer in found)
    told = [
        answer
        for _, answer in found
        if answer.status_code == httpx.codes.GATEWAY_TIMEOUT
        and "retry-after" in answer.headers
        and answer.json()["error"]["details"].get("phase")
    ]
    took_ms = sorted(1e3 * took_s for took_s, answer in found if answer.status_code == httpx.codes.OK)
    return {
        "route": route,
        "": _ROUTES[route],
        "answered 200": statuses[200],
        "504 that says how far": len(told),
        "otherwise": sum(statuses.values()) - statuses[200] - len(told),
        "p99 ms of those answered": took_ms[int(0.99 * (len(took_ms) - 1))] if took_ms else 0.0,
    }
