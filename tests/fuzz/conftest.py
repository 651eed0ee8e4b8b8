"""The service that is tried, and a picture it knows what to say of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import pytest

from tests.support.pictures import read_image
from tests.support.server import Server, real_models, running_server

TIMEOUT_S = 4.0
"""Deadline of the service's requests."""


@pytest.fixture(scope="session")
def service(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real service on real weights, both models loaded."""
    variables = {
        **real_models(shared_models),
        "MODEL_PRELOAD": "1",
        "REQUEST_TIMEOUT_S": str(TIMEOUT_S),
        # With a threshold of 0 everything is a face: a thousand embeddings take longer than that on a busy machine.
        "MAX_FACES": "16",
        "GALLERY_DIR": str(tmp_path_factory.mktemp("gallery")),
    }
    with running_server(tmp_path_factory.mktemp("fuzzed"), variables) as started:
        started.wait_until_ready()
        yield started
        assert "Traceback" not in started.read_log()


@pytest.fixture(scope="session")
def caller(service: Server) -> Iterator[httpx.Client]:
    """A client of the service; nothing takes it longer than a deadline and a half."""
    with httpx.Client(base_url=service.url, trust_env=False, timeout=1.5 * TIMEOUT_S) as client:
        yield client


@pytest.fixture(scope="session")
def portrait(shared_faces: Path) -> bytes:
    """A small JPEG of one face."""
    picture = read_image(min(shared_faces.rglob("*.jpg")))
    return bytes(cv2.imencode(".jpg", cv2.resize(picture, (160, 160)))[1].tobytes())
