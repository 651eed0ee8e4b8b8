"""What the running service exposes after real requests; what the dashboard and the alerts ask for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager
from prometheus_client import generate_latest
from ruamel.yaml import YAML

from jetface.device.telemetry import NvmlSensors
from jetface.main import create_app
from jetface.metrics import Metrics
from jetface.settings import Settings
from tests.support.fake_nvml import H200, FakeNvml
from tests.support.machines import ORIN, plant
from tests.support.promql import Exposition
from tests.support.shared import REPOSITORY

DEPLOY = REPOSITORY / "deploy"


@pytest.fixture(scope="session")
def scrape(shared_models: Path, shared_images: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """`/metrics` of the whole service with real weights, after requests that went well and requests that did not.

    The machine is a Jetson, by its files, with a GPU that has memory of its own besides: every reading there may be.
    """
    root = plant(tmp_path_factory.mktemp("machine"), ORIN)
    settings = Settings(
        models_dir=tmp_path_factory.mktemp("models"),
        model_mirror=str(shared_models),
        model_download=False,
        det_model="det_500m",
        rec_model="w600k_mbf_dequantized",
    )
    picture = shared_images.joinpath("t1.jpg").read_bytes()

    async def ask() -> str:
        app = create_app(settings, root=root)
        async with (
            LifespanManager(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://jetface") as client,
        ):
            for body in (picture, b"not a picture"):
                (await client.post("/extract", content=body, headers={"content-type": "image/jpeg"})).raise_for_status()
            await client.get("/nowhere")
            while "jetface_device_" not in (text := (await client.get("/metrics")).text):  # noqa: ASYNC110 - its only sign
                await asyncio.sleep(0.01)
            return with_engine_series(text) + gpu_series()

    return asyncio.run(ask())


def gpu_series() -> str:
    """Write what only a GPU with memory of its own has."""
    metrics = Metrics()
    free = NvmlSensors(FakeNvml(H200)).read()["gpu_memory_free_bytes"]
    metrics.device.read = lambda: {"gpu_memory_free_bytes": free}
    return generate_latest(metrics.device).decode()


def with_engine_series(text: str) -> str:
    """Write what there is only where engines are built below the head each of these metrics has already."""
    metrics = Metrics()
    metrics.set_engine("det_500m", "building")
    metrics.engine_build_seconds.labels("det_500m").set(95)
    for gauge in (metrics.engine_state, metrics.engine_build_seconds):
        head, samples = generate_latest(gauge).decode().split(" gauge\n")
        text = text.replace(f"{head} gauge\n", f"{head} gauge\n{samples}")
    return text


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
