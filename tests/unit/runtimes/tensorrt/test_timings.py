"""The timing cache, read and written with the real calls; what TensorRT for RTX keeps in it is next to nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from jetface.runtimes.engine_kit import profiles_for
from jetface.runtimes.tensorrt import Toolkit
from jetface.runtimes.tensorrt_build import MOST_BYTES, attach_timings, build_engine, keep_timings
from tests.support.recipes import recipe_of
from tests.support.tiny_onnx import arcface_model

# TensorRT for RTX times nothing, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")


@pytest.fixture
def config(toolkit: Toolkit) -> Any:
    return toolkit.trt.Builder(toolkit.relay.logger).create_builder_config()


def build(toolkit: Toolkit, folder: Path, cache: Path | None) -> None:
    (folder / "graph.onnx").write_bytes(arcface_model())
    recipe = recipe_of(profiles_for([(3, 112, 112)], (1, 2)), workspace_bytes=2**28)
    build_engine(toolkit, recipe, folder / "graph.onnx", lambda _: None, timing_cache=cache)


@pytest.mark.parametrize("kept", [None, b"", b"damaged" * 100], ids=["none", "empty", "damaged"])
def test_a_build_keeps_its_timings_whatever_was_there(toolkit: Toolkit, tmp_path: Path, kept: bytes | None) -> None:
    cache = tmp_path / "deeper" / "timings.cache"
    if kept is not None:
        cache.parent.mkdir()
        cache.write_bytes(kept)
    build(replace(toolkit, keeps_timings=True), tmp_path, cache)
    assert len(cache.read_bytes()) > 0
    assert cache.read_bytes() != kept
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_nothing_is_kept_where_it_has_no_effect_or_is_not_asked_for(toolkit: Toolkit, tmp_path: Path) -> None:
    build(toolkit, tmp_path, tmp_path / "timings.cache")
    build(replace(toolkit, keeps_timings=True), tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["graph.onnx"]


def test_a_folder_that_cannot_be_written_costs_a_warning(config: Any, tmp_path: Path) -> None:
    attach_timings(config, tmp_path / "none")
    (tmp_path / "file").touch()
    with capture_logs() as logs:
        keep_timings(config, tmp_path / "file" / "timings.cache")
    assert [line["event"] for line in logs if "kernel" in line["event"]] == ["kernel timings are not kept"]


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    cache = tmp_path / "timings.cache"
    cache.touch()
    os.truncate(cache, MOST_BYTES + 1)  # sparse
    config = Config()
    attach_timings(config, cache)
    assert config.contents == [b""]


class Config:
    """An `IBuilderConfig` that takes no cache with anything in it, as one does whose device is another."""

    def __init__(self, *, creates: bool = True) -> None:
        self._creates = creates
        self.contents: list[bytes] = []

    def create_timing_cache(self, content: bytes) -> bytes | None:
        self.contents.append(content)
        return content if self._creates else None

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return cache == b""

    def get_timing_cache(self) -> None:
        return None


@pytest.mark.parametrize("creates", [True, False])
def test_a_cache_of_another_device_is_left_aside(tmp_path: Path, *, creates: bool) -> None:
    (tmp_path / "timings.cache").write_bytes(b"foreign")
    config = Config(creates=creates)
    attach_timings(config, tmp_path / "timings.cache")
    assert config.contents == [b"foreign", b""]


def test_a_build_without_cache_keeps_none(tmp_path: Path) -> None:
    keep_timings(Config(), tmp_path / "timings.cache")
    assert list(tmp_path.iterdir()) == []
