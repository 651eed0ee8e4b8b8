"""The service as it is composed: what settings and the machine make of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog

from jetface.errors import MemoryPressureError, ServiceError
from jetface.registry import RegistryError
from jetface.service import Service, build_service, open_service
from jetface.settings import Settings

Result = TypeVar("Result")

MEBIBYTE = 2**20


def with_free_memory(folder: Path, free_bytes: int) -> Path:
    """Write what a machine with so much free memory has in `/proc`."""
    meminfo = folder / "proc/meminfo"
    meminfo.parent.mkdir(parents=True, exist_ok=True)
    meminfo.write_text(f"MemTotal: 33554432 kB\nMemAvailable: {free_bytes // 1024} kB\n")
    return folder


def in_service(settings: Settings, root: Path, work: Callable[[Service], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        async with open_service(settings, root=root) as service:
            return await work(service)

    return asyncio.run(run())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The starter models, which lie beside the registry."""
    return Settings(models_dir=tmp_path / "models", model_download=False, backend="onnxruntime")


def refusals(service: Service) -> float | None:
    return service.metrics.registry.get_sample_value("jetface_memory_refusals_total", {"work": "load"})


def test_a_model_is_not_loaded_where_memory_is_short_and_is_once_it_is_back(settings: Settings, tmp_path: Path) -> None:
    """The first request gets an error that says when to come back; nothing was taken; the next one is answered."""
    root = with_free_memory(tmp_path, settings.min_free_memory_bytes)

    async def ask(service: Service) -> tuple[ServiceError, str, float | None]:
        (name, _) = service.chosen.names
        with pytest.raises(MemoryPressureError) as raised:
            await service.store.get(name)
        assert service.store.status(name).reason == raised.value.message
        num_refused = refusals(service)
        with_free_memory(tmp_path, 1024 * MEBIBYTE)
        await service.store.get(name)
        return raised.value, name, num_refused

    error, name, num_refused = in_service(settings, root, ask)
    assert (error.code, num_refused) == ("memory_pressure", 1)
    assert error.retry_after_s
    assert name in error.message


def test_a_setting_for_accelerators_that_does_nothing_says_so_at_start(settings: Settings, tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        build_service(settings.model_copy(update={"trt_dla_core": 0}), root=tmp_path)
    assert [line["event"] for line in logs if line["log_level"] == "warning" and "TRT_DLA_CORE" in line["event"]] == [
        "TRT_DLA_CORE=0 puts nothing on an accelerator: no engines are built here. Set it to -1."
    ]


def test_without_a_floor_the_kernel_decides(settings: Settings, tmp_path: Path) -> None:
    root = with_free_memory(tmp_path, 0)
    unguarded = settings.model_copy(update={"min_free_memory_bytes": 0})

    async def load(service: Service) -> Any:
        return await service.store.get(service.chosen.names[0])

    assert in_service(unguarded, root, load).spec.is_detector


@pytest.mark.parametrize(("value", "expected"), [("true", "1"), ("0", "0"), (None, None)])
def test_cuda_is_told_in_its_own_words_to_keep_no_cache(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, value: str | None, expected: str | None
) -> None:
    """It understands 1 only; where the operator says nothing, neither do we."""
    if value is not None:
        monkeypatch.setenv("CUDA_CACHE_DISABLE", value)
    build_service(settings.model_copy(update={"cuda_cache_disable": value == "true"})).pool.close()
    assert os.environ.get("CUDA_CACHE_DISABLE") == expected


@pytest.mark.slow
def test_freed_memory_is_given_back_again_and_again(settings: Settings, tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as captured:
        in_service(settings.model_copy(update={"memory_trim_s": 0.01}), tmp_path, lambda _service: asyncio.sleep(2))
    assert len([entry for entry in captured if entry["event"] == "memory trimmed"]) >= 2


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ({"plate_det_model": "starter_plate"}, "PLATE_OCR_MODEL=none is not allowed"),
        ({"plate_ocr_model": "plate_ocr_cct_xs"}, "PLATE_DET_MODEL=none is not allowed"),
        ({"det_model": "none", "rec_model": "none"}, "nothing to serve"),
    ],
)
def test_models_that_serve_nothing_do_not_start(settings: Settings, named: dict[str, str], reason: str) -> None:
    with pytest.raises(RegistryError, match=reason):
        build_service(settings.model_copy(update=named))
