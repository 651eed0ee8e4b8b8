"""The whole pipeline without HTTP, on real weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.domain import ExtractOptions, KnownFaces, PictureResult
from app.errors import DeadlineExceededError, ImageDecodeError, ModelError
from app.imaging.sources import EncodedPicture
from app.service import Service, open_service
from app.settings import Settings
from tests.support.encoded import encode, exif, png_with_exif

OPTIONS = ExtractOptions(score_threshold=0.5)


def settings_for(shared_models: Path, folder: Path, **more: object) -> Settings:
    """Real weights out of the shared mirror."""
    return Settings(
        models_dir=folder, model_mirror=str(shared_models), det_model="det_500m", backend="onnxruntime",
        rec_model=more.pop("rec_model", "w600k_mbf_dequantized"), **more,
    )  # fmt: skip


@pytest.fixture
async def service(shared_models: Path, tmp_path: Path) -> AsyncIterator[Service]:
    """A service as it is by default."""
    async with open_service(settings_for(shared_models, tmp_path)) as opened:
        yield opened


def soon() -> float:
    """A deadline no test reaches."""
    return asyncio.get_running_loop().time() + 60


def vectors(result: PictureResult) -> np.ndarray:
    """(N, L) embeddings of a picture."""
    return np.stack([face.embedding.vector for face in result.faces if face.embedding])


def enlarged(path: Path, factor: float) -> bytes:
    """The picture as a JPEG of `factor` times its sides."""
    image = cv2.imread(str(path))
    big = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", big, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def assert_one_answer(expected: PictureResult, *others: PictureResult) -> None:
    """As many faces in the same places, every embedding at cosine 0.999 or more."""
    assert expected.faces
    for other in others:
        assert len(other.faces) == len(expected.faces)
        np.testing.assert_allclose([f.box for f in other.faces], [f.box for f in expected.faces], atol=1)
        assert ((vectors(other) * vectors(expected)).sum(axis=1) >= 0.999).all()


async def test_each_face_says_which_picture_it_is_of(service: Service, shared_images: Path) -> None:
    """A picture without faces, a broken one and a filter shift nothing."""
    blank = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    sources = [EncodedPicture(data) for data in (blank, b"no picture", (shared_images / "t1.jpg").read_bytes())]
    options = ExtractOptions(score_threshold=0.5, min_face_width_px=100)
    results = await service.extractor.extract(sources, options, deadline=soon())
    assert [result.image_index for result in results] == [0, 1, 2]
    assert [len(result.faces) for result in results][:2] == [0, 0]
    assert isinstance(results[1].error, ImageDecodeError)
    assert results[2].faces
    assert {face.image_index for face in results[2].faces} == {2}
    assert all(face.box[2] - face.box[0] >= 100 for face in results[2].faces)


@pytest.mark.parametrize("name", ["bbt3", "solvay_conference_1927", "t1"])
async def test_a_large_picture_gives_one_answer_whatever_its_format(
    service: Service, shared_dir: Path, name: str
) -> None:
    """A JPEG of 3000 px, and its pixels as BMP, PNG, WebP and with a turn in its EXIF, agree on every face."""
    jpeg = (shared_dir / "cases" / "bigjpeg" / f"{name}_3000.jpg").read_bytes()
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    others = [encode(".bmp", pixels), encode(".png", pixels), encode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 101])]
    others.append(png_with_exif(encode(".png", np.rot90(pixels)), exif(6)))
    assert_one_answer(
        *await service.extractor.extract(list(map(EncodedPicture, [jpeg, *others])), OPTIONS, deadline=soon())
    )


@pytest.mark.parametrize("side_px", [960, 2600, 7500])
async def test_formats_agree_from_the_canvas_up_to_the_largest_picture(
    service: Service, shared_images: Path, side_px: int
) -> None:
    """One and a half canvases to nearly 50 million pixels; boxes are source pixels."""
    jpeg = enlarged(shared_images / "bbt1.jpg", side_px / 1366)
    bmp = encode(".bmp", cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
    results = await service.extractor.extract([EncodedPicture(jpeg), EncodedPicture(bmp)], OPTIONS, deadline=soon())
    assert_one_answer(*results)
    assert results[0].image_hw is not None
    assert max(results[0].image_hw) == side_px
    assert max(float(face.box[2]) for face in results[0].faces) > side_px / 2


async def test_known_landmarks_give_the_embeddings_of_detection(service: Service, shared_images: Path) -> None:
    """`recognize` with what `extract` said answers the same, in the given order."""
    source = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    (found,) = await service.extractor.extract([source], OPTIONS, deadline=soon())
    landmarks = np.stack([face.landmarks for face in found.faces])[::-1].copy()
    (known,) = await service.extractor.recognize([source], [KnownFaces(landmarks=landmarks)], deadline=soon())
    np.testing.assert_allclose(vectors(known), vectors(found)[::-1], atol=1e-4)


async def test_known_boxes_are_aligned_by_the_detector(service: Service, shared_images: Path) -> None:
    """A box drawn by another detector still gets its face."""
    source = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    (found,) = await service.extractor.extract([source], OPTIONS, deadline=soon())
    boxes = np.stack([face.box for face in found.faces]) + np.float32([-6, -4, 5, 7])
    (known,) = await service.extractor.recognize([source], [KnownFaces(boxes=boxes)], deadline=soon())
    np.testing.assert_array_equal([face.box for face in known.faces], boxes)
    assert ((vectors(known) * vectors(found)).sum(axis=1) > 0.999).all()


async def test_crops_of_any_size_are_embedded(service: Service, shared_images: Path) -> None:
    """A crop twice as large is the same face."""
    source = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    options = ExtractOptions(score_threshold=0.5, with_crop=True, limit_faces=1)
    (found,) = await service.extractor.extract([source], options, deadline=soon())
    crop = found.faces[0].crop
    assert crop is not None
    pictures = [crop, cv2.resize(crop, (224, 224), interpolation=cv2.INTER_CUBIC)]
    encoded = [EncodedPicture(cv2.imencode(".png", picture)[1].tobytes()) for picture in pictures]
    same, resized = await service.extractor.embed_crops(encoded, deadline=soon())
    np.testing.assert_allclose(vectors(same), vectors(found), atol=1e-5)
    assert (vectors(resized) @ vectors(found).T).item() > 0.98


async def test_detection_alone_loads_no_recognizer(service: Service, shared_images: Path) -> None:
    source = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    options = ExtractOptions(score_threshold=0.5, with_embedding=False)
    await service.extractor.extract([source], options, deadline=soon())
    states = {status.spec.name: status.state.value for status in service.store.statuses()}
    assert states["det_500m"] == "serving"
    assert states["w600k_mbf_dequantized"] == "unloaded"


async def test_a_service_without_recognizer_says_so(shared_models: Path, tmp_path: Path, shared_images: Path) -> None:
    """REC_MODEL=none serves detection only."""
    source = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    async with open_service(settings_for(shared_models, tmp_path, rec_model="none")) as detecting:
        with pytest.raises(ModelError, match="detection only"):
            await detecting.extractor.extract([source], OPTIONS, deadline=soon())
        options = ExtractOptions(score_threshold=0.5, with_embedding=False)
        (result,) = await detecting.extractor.extract([source], options, deadline=soon())
    assert len(result.faces) == 6


async def test_a_passed_deadline_fails_the_request(service: Service, shared_images: Path) -> None:
    """Not the picture: its caller should try again."""
    source = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    with pytest.raises(DeadlineExceededError):
        await service.extractor.extract([source], OPTIONS, deadline=asyncio.get_running_loop().time() - 1)
