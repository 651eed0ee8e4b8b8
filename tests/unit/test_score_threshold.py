"""Which detector score counts as a face where a request does not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from jetface.main import create_app
from jetface.service import build_service
from jetface.settings import Settings

OWN = {"det_500m": 0.6, "scrfd_10g_bnkps": 0.6, "starter_det": 0.5, "yunet_2023mar": 0.6, "yunet_n": 0.6}


def service_threshold(folder: Path, detector: str, **settings: Any) -> float:
    return build_service(
        Settings(det_model=detector, models_dir=folder, backend="onnxruntime", **settings)
    ).score_threshold


@pytest.mark.parametrize("detector", OWN)
def test_each_detector_has_one_that_suits_it(tmp_path: Path, detector: str) -> None:
    assert service_threshold(tmp_path, detector) == OWN[detector]


@pytest.mark.parametrize("detector", OWN)
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.75])
def test_what_the_operator_sets_counts_for_all(tmp_path: Path, detector: str, threshold: float) -> None:
    assert service_threshold(tmp_path, detector, def_det_thresh=threshold) == threshold


def test_a_users_entry_may_name_one(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2].joinpath("models/det_500m.toml").read_text("utf-8")
    (tmp_path / "mine.toml").write_text(f"score_threshold = 0.25\n{shipped}".replace('"det_500m"', '"mine"', 1))
    assert service_threshold(tmp_path, "mine") == 0.25


async def test_requests_and_info_go_by_it(tmp_path: Path) -> None:
    app = create_app(Settings(det_model="starter_det", models_dir=tmp_path, backend="onnxruntime"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://jetface") as client:
        assert (await client.get("/info")).json()["defaults"]["det_thresh"] == 0.5
