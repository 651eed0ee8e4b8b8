"""The machine as a caller of the service sees it: telemetry at `/info` and `/metrics`, memory that runs short."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager

from jetface.main import create_app
from jetface.settings import Settings
from tests.support import machines
from tests.support.fakes import jpeg_of

JPEG = {"content-type": "image/jpeg"}

Serve = Callable[..., Any]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Run a service with the starter models on a machine with these files; return what `ask` returns."""

    def run(
        files: Mapping[str, str], ask: Callable[[httpx.AsyncClient, Path], Awaitable[Any]], **settings: object
    ) -> Any:
        root = machines.plant(tmp_path / "root", files)
        values: dict[str, Any] = {
            "models_dir": tmp_path / "models", "model_download": False, "backend": "onnxruntime", **settings,
        }  # fmt: skip

        async def served() -> Any:
            app = create_app(Settings(**values), root=root)
            async with (
                LifespanManager(app),
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://jetface") as client,
            ):
                return await ask(client, root)

        return asyncio.run(served())

    return run


async def device(client: httpx.AsyncClient, *, until: str) -> Any:
    """Return `/info`'s word on the device as soon as telemetry is in a state."""
    for _ in range(1000):
        found = (await client.get("/info")).raise_for_status().json()["device"]
        if found["telemetry"] == until:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(found)


def test_a_jetson_is_at_info_and_at_metrics(serve: Serve) -> None:
    async def ask(client: httpx.AsyncClient, _root: Path) -> tuple[Any, str]:
        return await device(client, until="on"), (await client.get("/metrics")).text

    found, metrics = serve(machines.ORIN, ask)
    assert found["module"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert found["readings"]["temperature_celsius"] == {"cpu-thermal": 48.25, "gpu-thermal": 45.0}
    assert found["readings"]["cores_online"] == {"": 12}
    for line in (
        'jetface_device_gpu_load_ratio{gpu="0"} 0.437',
        'jetface_device_power_watts{rail="VDD_GPU_SOC"} 7.6',
        'jetface_device_throttled{cause="over-current"} 0.0',
        "jetface_device_cores_online 12.0",
    ):
        assert line in metrics.splitlines()


def test_a_sensor_that_goes_takes_its_series_along(serve: Serve) -> None:
    async def ask(client: httpx.AsyncClient, root: Path) -> list[str]:
        await device(client, until="on")
        root.joinpath("sys/class/thermal/thermal_zone1/temp").unlink()
        for _ in range(1000):
            lines = (await client.get("/metrics")).text.splitlines()
            if not any("gpu-thermal" in line for line in lines):
                return lines
            await asyncio.sleep(0.01)
        raise AssertionError(lines)

    lines = serve(machines.ORIN, ask, telemetry_interval_s=0.01)
    assert 'jetface_device_temperature_celsius{zone="cpu-thermal"} 48.25' in lines


@pytest.mark.parametrize(("interval_s", "state"), [(0.01, "nothing readable"), (0, "off")])
def test_where_nothing_is_read_info_says_so_and_metrics_are_silent(serve: Serve, interval_s: float, state: str) -> None:
    async def ask(client: httpx.AsyncClient, _root: Path) -> tuple[Any, str]:
        return await device(client, until=state), (await client.get("/metrics")).text

    found, metrics = serve({"etc/hostname": "plain"}, ask, telemetry_interval_s=interval_s)
    assert found["readings"] == {}
    assert bool(found["unreadable"]) == (state != "off")
    assert "jetface_device" not in metrics


def test_a_caller_is_told_to_come_back_when_memory_is_short(serve: Serve) -> None:
    """503 with `Retry-After`; readiness and metrics say it; with memory back the same request is answered."""

    async def ask(client: httpx.AsyncClient, root: Path) -> tuple[httpx.Response, ...]:
        async def extract() -> httpx.Response:
            return await client.post("/extract", content=jpeg_of(), headers=JPEG)

        refused, metrics, ready = await extract(), await client.get("/metrics"), await client.get("/health/ready")
        machines.plant(root, machines.PLAIN)
        return refused, metrics, ready, await extract()

    refused, metrics, ready, answered = serve({"proc/meminfo": "MemAvailable: 262144 kB\n"}, ask)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "memory_pressure")
    assert int(refused.headers["retry-after"]) >= 1
    assert 'jetface_memory_refusals_total{work="load"} 1.0' in metrics.text.splitlines()
    assert ready.status_code == 503
    assert "memory" in ready.text
    assert answered.status_code == 200


@pytest.mark.parametrize(
    ("settings", "expected"), [({}, 2**26), ({"workers": 4}, 2**24), ({"body_budget_bytes": 10**7}, 10**7)]
)
def test_bodies_may_take_a_quarter_of_what_the_control_group_allows(
    serve: Serve, settings: dict[str, Any], expected: int
) -> None:
    async def limit(client: httpx.AsyncClient, _root: Path) -> int:
        lines = (await client.get("/metrics")).text.splitlines()
        return int(float(next(line for line in lines if line.startswith("jetface_body_bytes_limit ")).split()[1]))

    group = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{2**28}\n"}
    assert serve(group, limit, **settings) == expected
