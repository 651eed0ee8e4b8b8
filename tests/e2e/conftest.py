"""The started service with real weights, shared by the tests of a file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import Server, real_models, running_server

Body = dict[str, Any]


@pytest.fixture(scope="session")
def weights(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a service that finds real weights in a mirror and keeps what it prepares for the next one."""
    return {
        **real_models(shared_models),
        "MODELS_DIR": str(tmp_path_factory.mktemp("models")),
        "LOG_FORMAT": "json",
    }


@pytest.fixture(scope="module")
def server(weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that has loaded nothing yet."""
    with running_server(tmp_path_factory.mktemp("server"), weights) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """A caller of `server`."""
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as connected:
        yield connected


@pytest.fixture(scope="session")
def body_of(shared_images: Path) -> Callable[..., Body]:
    """Make the JSON body of `/extract` from names of shared pictures and raw bytes, plus options."""

    def make(*pictures: str | bytes, **options: object) -> Body:
        contents = [shared_images.joinpath(p).read_bytes() if isinstance(p, str) else p for p in pictures]
        return {"images": {"data": [base64.b64encode(content).decode() for content in contents]}, **options}

    return make
