"""Both clients behind one face, and the started service with real weights."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jetface_client import AsyncClient, Client
from tests.support.server import PLATES_ON, Server, running_server

API_KEY = "secret"

Ask = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on loopback is not asked for through a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def weights(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings under which small real weights are found."""
    return {
        "MODEL_MIRROR": str(shared_models),
        "MODELS_DIR": str(tmp_path_factory.mktemp("models")),
        "MODEL_DOWNLOAD": "0",
        "DET_MODEL": "det_500m",
        "REC_MODEL": "mobilefacenet128",
        "GA_MODEL": "genderage_v1",
        "MASK_MODEL": "mask_detector_seeta",
        "LIVENESS_MODEL": "fasnet_2.7",
        "API_KEYS": f"other,{API_KEY}",
    }


@pytest.fixture(scope="session")
def server(weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One service for all tests of the client."""
    variables = {**weights, **PLATES_ON, "GALLERY_DIR": str(tmp_path_factory.mktemp("gallery"))}
    with running_server(tmp_path_factory.mktemp("server"), variables) as started:
        yield started


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Call a method of either client by name: `ask(url, "extract", picture)`; generators come as lists."""

    def call(url: str, method: str, *args: object, client: dict[str, Any] | None = None, **kwargs: object) -> Any:
        options = {"api_key": API_KEY, **(client or {})}
        if request.param is Client:
            with Client(url, **options) as connected:
                result = getattr(connected, method)(*args, **kwargs)
                return list(result) if inspect.isgenerator(result) else result
        return asyncio.run(_ask_async(url, method, args, kwargs, options))

    return call


async def _ask_async(url: str, method: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
    async with AsyncClient(url, **options) as connected:
        result = getattr(connected, method)(*args, **kwargs)
        return [item async for item in result] if inspect.isasyncgen(result) else await result
