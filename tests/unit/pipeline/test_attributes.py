"""Attributes and quality through the whole pipeline, on real weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jetface.domain import ExtractOptions, PictureResult
from jetface.errors import DeadlineExceededError
from jetface.imaging.sources import EncodedPicture
from jetface.registry import RegistryError
from jetface.service import Service, open_service
from jetface.settings import Settings

ALL = {
    "ga_model": "genderage_v1",
    "mask_model": "mask_detector_seeta",
    "liveness_model": ("fasnet_2.7", "fasnet_4.0"),
}
WITH_ALL = ExtractOptions(
    score_threshold=0.5, with_embedding=False, with_quality=True,
    attributes=frozenset({"gender_age", "mask", "liveness"}),
)  # fmt: skip


def settings_for(shared_models: Path, folder: Path, **more: Any) -> Settings:
    """Real weights out of the shared mirror."""
    return Settings(models_dir=folder, model_mirror=str(shared_models), det_model="det_500m", **more)


@pytest.fixture
async def service(shared_models: Path, tmp_path: Path) -> AsyncIterator[Service]:
    """A service with every stage."""
    async with open_service(settings_for(shared_models, tmp_path, rec_model="w600k_mbf_dequantized", **ALL)) as opened:
        yield opened


async def extract(service: Service, data: bytes, options: ExtractOptions) -> PictureResult:
    deadline = asyncio.get_running_loop().time() + 60
    (result,) = await service.extractor.extract([EncodedPicture(data)], options, deadline=deadline)
    return result


def loaded(service: Service) -> set[str]:
    return {model.spec.name for model in service.store.loaded()}


async def test_every_face_has_every_attribute(service: Service, shared_images: Path) -> None:
    """And crops, which nobody asked for, are not kept."""
    result = await extract(service, (shared_images / "t1.jpg").read_bytes(), WITH_ALL)
    assert len(result.faces) == 6
    for face in result.faces:
        assert 15 < face.attributes["gender_age"]["age"] < 70
        assert 0 <= face.attributes["mask"]["mask_probs"]["mask"] <= 1
        assert 0 <= face.attributes["liveness"]["live"] <= 1
        assert face.quality is not None
        assert face.quality.size_px == pytest.approx(min(face.box[2] - face.box[0], face.box[3] - face.box[1]))
        assert face.embedding is None
        assert face.crop is None
    assert sum(face.attributes["gender_age"]["gender"] for face in result.faces) in {1, 2, 3, 4}
    assert result.times.attributes_s > 0


async def test_models_are_loaded_by_the_first_request_that_asks(service: Service, shared_images: Path) -> None:
    data = (shared_images / "ifrest_Stallone.jpg").read_bytes()
    nothing = ExtractOptions(score_threshold=0.5, with_embedding=False)
    await extract(service, data, nothing)
    assert loaded(service) == {"det_500m"}
    await extract(
        service, data, ExtractOptions(score_threshold=0.5, with_embedding=False, attributes=frozenset({"mask"}))
    )
    assert loaded(service) == {"det_500m", "mask_detector_seeta"}
    await extract(
        service, data, ExtractOptions(score_threshold=0.5, with_embedding=False, attributes=frozenset({"liveness"}))
    )
    assert loaded(service) == {"det_500m", "mask_detector_seeta", "fasnet_2.7", "fasnet_4.0"}


async def test_a_picture_without_faces_loads_nothing_more(service: Service) -> None:
    blank = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    assert (await extract(service, blank, WITH_ALL)).faces == ()
    assert loaded(service) == {"det_500m"}


async def test_stages_without_a_model_leave_their_fields_unknown(
    shared_models: Path, tmp_path: Path, shared_images: Path
) -> None:
    async with open_service(settings_for(shared_models, tmp_path, rec_model="none")) as bare:
        result = await extract(bare, (shared_images / "t1.jpg").read_bytes(), WITH_ALL)
        assert loaded(bare) == {"det_500m"}
    for face in result.faces:
        assert face.attributes == {}
        assert face.quality is not None


async def test_crops_have_attributes_but_no_surroundings(service: Service, shared_images: Path) -> None:
    """The same crop, detected or handed in, is the same age; liveness and quality stay unknown."""
    wanted = ExtractOptions(
        score_threshold=0.5, limit_faces=1, with_crop=True, with_quality=True, attributes=WITH_ALL.attributes,
    )  # fmt: skip
    found = (await extract(service, (shared_images / "t1.jpg").read_bytes(), wanted)).faces[0]
    assert found.crop is not None
    source = EncodedPicture(cv2.imencode(".png", found.crop)[1].tobytes())
    deadline = asyncio.get_running_loop().time() + 60
    (result,) = await service.extractor.embed_crops([source], wanted, deadline=deadline)
    (face,) = result.faces
    assert face.attributes == {name: found.attributes[name] for name in ("gender_age", "mask")}
    assert face.embedding is not None
    assert face.quality is None


async def test_poor_faces_are_dropped_before_the_largest_are_counted(service: Service, shared_images: Path) -> None:
    """`limit_faces` is filled with faces that are good enough, and those are all of the best."""
    data = (shared_images / "ifrest_lumia.jpg").read_bytes()
    everyone = ExtractOptions(score_threshold=0.5, with_embedding=False, with_quality=True)
    qualities = [face.quality.score for face in (await extract(service, data, everyone)).faces if face.quality]
    least = float(np.median(qualities))
    good = ExtractOptions(score_threshold=0.5, min_quality=least, with_embedding=False, with_quality=True)
    kept = [face.quality.score for face in (await extract(service, data, good)).faces if face.quality]
    assert sorted(kept) == pytest.approx(sorted(quality for quality in qualities if quality >= least))
    few = ExtractOptions(score_threshold=0.5, min_quality=least, limit_faces=3, with_embedding=False)
    assert len((await extract(service, data, few)).faces) == 3
    none = ExtractOptions(score_threshold=0.5, min_quality=1.0)
    assert (await extract(service, data, none)).faces == ()
    assert loaded(service) == {"det_500m"}, "nobody was left to embed"


async def test_a_passed_deadline_fails_the_request(service: Service, shared_images: Path) -> None:
    source = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    with pytest.raises(DeadlineExceededError):
        await service.extractor.embed_crops([source], WITH_ALL, deadline=asyncio.get_running_loop().time() - 1)


async def test_a_model_of_another_task_stops_the_start(shared_models: Path, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"GA_MODEL='fasnet_2\.7' is not allowed"):
        async with open_service(settings_for(shared_models, tmp_path, ga_model="fasnet_2.7")):
            pass
