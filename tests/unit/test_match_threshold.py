"""Which similarity means one person where a request does not say: the recognizer's own, told wherever it counts."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from jetface.main import create_app
from jetface.service import build_service
from jetface.settings import Settings

OWN = {
    "w600k_mbf_dequantized": (0.30, 1e-4),
    "mobilefacenet128": (0.42, 1e-4),
    "starter_rec": (0.32, 1e-4),
    "sface_2021dec": (0.363, None),
    "glintr100": (None, None),
}


def settings_of(folder: Path, recognizer: str) -> Settings:
    return Settings(det_model="starter_det", rec_model=recognizer, models_dir=folder, backend="onnxruntime")


@pytest.mark.parametrize("recognizer", OWN)
async def test_each_recognizer_has_one_that_suits_it(tmp_path: Path, recognizer: str) -> None:
    """One that names none is compared at 0.35, and nobody is told a rate that was not measured."""
    app = create_app(settings_of(tmp_path, recognizer))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://jetface") as client:
        info = (await client.get("/info")).json()["models"]
        model = (await client.get(f"/models/{recognizer}")).json()
    threshold, rate = OWN[recognizer]
    assert (info["match_threshold"], info["false_match_rate"]) == (threshold or 0.35, rate)
    assert (model["match_threshold"], model["false_match_rate"]) == (threshold, rate)


async def test_without_a_recognizer_there_is_none(tmp_path: Path) -> None:
    app = create_app(settings_of(tmp_path, "none"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://jetface") as client:
        info = (await client.get("/info")).json()["models"]
    assert (info["rec_name"], info["match_threshold"], info["false_match_rate"]) == (None, None, None)


def test_a_users_entry_may_name_one(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2].joinpath("models/starter_rec.toml").read_text("utf-8")
    entry = shipped.replace('"starter_rec"', '"mine"', 1).replace("match_threshold = 0.32", "match_threshold = 0.28")
    (tmp_path / "mine.toml").write_text(entry, "utf-8")
    assert build_service(settings_of(tmp_path, "mine")).match_threshold == 0.28


async def test_a_model_that_is_loaded_anew_brings_its_own(tmp_path: Path) -> None:
    """An entry that was changed counts from the reload on."""
    shipped = Path(__file__).parents[2].joinpath("models/starter_rec.toml").read_text("utf-8")
    entry = shipped.replace('"starter_rec"', '"mine"', 1).replace("[input]", 'file = "starter_rec.onnx"\n[input]', 1)
    (tmp_path / "mine.toml").write_text(entry, "utf-8")
    app = create_app(settings_of(tmp_path, "mine"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://jetface", timeout=60) as client,
    ):
        (tmp_path / "mine.toml").write_text(entry.replace("match_threshold = 0.32", "match_threshold = 0.5"), "utf-8")
        assert (await client.get("/info")).json()["models"]["match_threshold"] == 0.32
        (await client.post("/models/mine/reload")).raise_for_status()
        assert (await client.get("/info")).json()["models"]["match_threshold"] == 0.5
