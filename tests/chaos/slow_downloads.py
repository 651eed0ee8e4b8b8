"""A mirror that takes 20 s for the recognizer, while the detector's file is here, and a damaged file beside it.

Wanted: whoever needs the detector alone loses nothing, though 200 wait for the recognizer; whoever needs both is told
how far the download is and when to come back; the damaged file is put aside and fetched again.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
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
    """Ask one route until the recognizer has been there for a while, and the other until it is there."""
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
            with running_server(folder, variables) as server, ThreadPoolExecutor(1 + _WAITERS) as pool:
                with _client(server) as client:
                    client.post("/detect", content=picture).raise_for_status()
                end = time.monotonic() + _PAUSE_S + 10
                asked = {
                    route: [pool.submit(_keep_asking, server, route, picture, end) for _ in range(num_callers)]
                    for route, (_, num_callers) in _ROUTES.items()
                }
                rows = [
                    _row(route, [each for one in callers for each in one.result()]) for route, callers in asked.items()
                ]
        aside = (models / f"{_REC}.onnx.damaged").exists()
    return [{**row, "damaged file put aside": "yes" if aside else "no"} for row in rows]


_WAITERS = 200
_ROUTES = {"/detect": ("needs what is here", 1), "/extract": ("needs both", _WAITERS)}
"""What each needs, and how many ask for it at a time."""


def _client(server: Server) -> httpx.Client:
    headers = {"content-type": "image/jpeg"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False, verify=False)


def _keep_asking(server: Server, route: str, body: bytes, end: float) -> list[tuple[float, httpx.Response]]:
    answers = []
    with _client(server) as client:
        while time.monotonic() < end:
            started = time.perf_counter()
            answer = client.post(route, content=body)
            answers.append((time.perf_counter() - started, answer))
            if answer.status_code == httpx.codes.OK and route == "/extract":
                break  # its model is there: what comes now is ordinary load
            if answer.status_code != httpx.codes.OK:
                time.sleep(min(float(answer.headers.get("retry-after", 1)), 2.0))
    return answers


def _row(route: str, found: list[tuple[float, httpx.Response]]) -> dict[str, object]:
    statuses = Counter(answer.status_code for _, answer in found)
    told = [
        answer
        for _, answer in found
        if answer.status_code in {httpx.codes.GATEWAY_TIMEOUT, httpx.codes.SERVICE_UNAVAILABLE}
        and "retry-after" in answer.headers
        and answer.json()["error"]["details"].get("phase")
    ]
    took_ms = sorted(1e3 * took_s for took_s, answer in found if answer.status_code == httpx.codes.OK)
    return {
        "route": route,
        "": _ROUTES[route][0],
        "callers": _ROUTES[route][1],
        "answered 200": statuses[200],
        "503, 504 that say how far": len(told),
        "429, no place": statuses[429],
        "otherwise": sum(statuses.values()) - statuses[200] - statuses[429] - len(told),
        "p99 ms of those answered": took_ms[int(0.99 * (len(took_ms) - 1))] if took_ms else 0.0,
    }
