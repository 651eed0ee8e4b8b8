"""What the running service exposes after real requests; what the dashboard and the alerts ask for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager
from ruamel.yaml import YAML

from app.main import create_app
from app.settings import Settings
from tests.support.promql import Exposition
from tests.support.shared import REPOSITORY

DEPLOY = REPOSITORY / "deploy"


@pytest.fixture(scope="session")
def scrape(shared_models: Path, shared_images: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """`/metrics` of the whole service with real weights, after requests that went well and requests that did not."""
    settings = Settings(
        models_dir=tmp_path_factory.mktemp("models"),
        model_mirror=str(shared_models),
        model_download=False,
        det_model="det_500m",
        rec_model="w600k_mbf_dequantized",
    )
    picture = shared_images.joinpath("t1.jpg").read_bytes()

    async def ask() -> str:
        app = create_app(settings)
        async with (
            LifespanManager(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://jetface") as client,
        ):
            for body in (picture, b"not a picture"):
                (await client.post("/extract", content=body, headers={"content-type": "image/jpeg"})).raise_for_status()
            await client.get("/nowhere")
            return (await client.get("/metrics")).text

    return asyncio.run(ask())


@pytest.fixture(scope="session")
def exposition(scrape: str) -> Exposition:
    return Exposition.parse(scrape)


@pytest.fixture(scope="session")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DEPLOY.joinpath("grafana/jetface.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="session")
def alerts() -> list[dict[str, Any]]:
    groups = YAML(typ="safe").load(DEPLOY / "prometheus/alerts.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]
