"""The wire contract's part that is compatible with Immich's machine learning, one test per sentence."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from tests.support.fakes import Harness, jpeg_of

DETECTION = {"modelName": "buffalo_l", "options": {"minScore": 0.7}}
ENTRIES = {"facial-recognition": {"detection": DETECTION, "recognition": {"modelName": "buffalo_l"}}}


async def predict(client: httpx.AsyncClient, entries: object = ENTRIES, **more: Any) -> httpx.Response:
    text = entries if isinstance(entries, str) else json.dumps(entries)
    files = more.pop("files", {"image": ("image", jpeg_of(), "application/octet-stream")})
    return await client.post("/predict", data={"entries": text, **more}, files=files)


async def test_ping_is_pong(client: httpx.AsyncClient) -> None:
    answer = await client.get("/ping")
    assert (answer.status_code, answer.text) == (200, "pong")


async def test_faces_are_found_and_embedded(client: httpx.AsyncClient, harness: Harness) -> None:
    answer = (await predict(client)).json()
    assert answer.keys() == {"facial-recognition", "imageHeight", "imageWidth"}
    assert (answer["imageHeight"], answer["imageWidth"]) == (480, 640)
    for face in answer["facial-recognition"]:
        assert face.keys() == {"boundingBox", "embedding", "score"}
        assert face["boundingBox"].keys() == {"x1", "y1", "x2", "y2"}
        assert isinstance(face["embedding"], str)
        assert len(json.loads(face["embedding"])) == 512
    assert harness.extractor.options is not None
    assert harness.extractor.options.score_threshold == 0.7


async def test_without_a_score_the_services_own_holds(client: httpx.AsyncClient, harness: Harness) -> None:
    await predict(client, {"facial-recognition": {"detection": {"modelName": "x"}, "recognition": {}}})
    assert harness.extractor.options is not None
    assert harness.extractor.options.score_threshold == 0.6


async def test_nobody_in_a_picture_is_no_error(client: httpx.AsyncClient, harness: Harness) -> None:
    harness.extractor.num_faces = 0
    answer = await predict(client)
    assert (answer.status_code, answer.json()["facial-recognition"]) == (200, [])


async def test_recognition_without_detection_is_400(client: httpx.AsyncClient) -> None:
    answer = await predict(client, {"facial-recognition": {"recognition": {"modelName": "buffalo_l"}}})
    assert answer.status_code == 400


async def test_no_picture_is_400(client: httpx.AsyncClient) -> None:
    assert (await predict(client, files={"entries": (None, json.dumps(ENTRIES))})).status_code == 400


@pytest.mark.parametrize("entries", ["{", "7", '{"facial-recognition": 7}', '{"facial-recognition": {"detection": 7}}'])
async def test_entries_that_cannot_be_read_are_422(client: httpx.AsyncClient, entries: str) -> None:
    assert (await predict(client, entries)).status_code == 422


@pytest.mark.parametrize("task", ["clip", "ocr"])
async def test_other_tasks_are_refused(client: httpx.AsyncClient, harness: Harness, task: str) -> None:
    answer = await predict(client, {task: {"visual": {"modelName": "ViT-B-32__openai"}}})
    assert answer.status_code == 422
    assert "facial-recognition" in answer.json()["detail"]
    assert harness.extractor.num_calls == 0


async def test_a_picture_that_cannot_be_read_is_422(client: httpx.AsyncClient) -> None:
    assert (await predict(client, files={"image": ("image", b"")})).status_code == 422


async def test_the_models_that_answer_are_logged_once(client: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        for _ in range(3):
            await predict(client)
    (line,) = (line for line in logs if "named" in line)
    assert (line["named"], line["recognizer"]) == ("buffalo_l", "w600k_mbf")
