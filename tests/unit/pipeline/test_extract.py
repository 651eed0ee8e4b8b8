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


def enlarged(path: Path, factor: int) -> bytes:
    """The picture as a JPEG of `factor` times its sides."""
    image = cv2.imread(str(path))
    big = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", big, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


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


async def test_a_large_jpeg_is_answered_as_if_fully_decoded(service: Service, shared_images: Path) -> None:
    """Boxes are source pixels, and embeddings are those of full-resolution crops (5120x3544, decoded at a half)."""
    data = enlarged(shared_images / "t1.jpg", 4)
    (large,) = await service.extractor.extract([EncodedPicture(data)], OPTIONS, deadline=soon())
    small_data = (shared_images / "t1.jpg").read_bytes()
    (small,) = await service.extractor.extract([EncodedPicture(small_data)], OPTIONS, deadline=soon())
    assert large.image_hw == (3544, 5120)
    order = [int(np.argmin([abs(f.box - 4 * face.box).sum() for f in large.faces])) for face in small.faces]
    assert sorted(order) == list(range(6))
    np.testing.assert_allclose([large.faces[i].box for i in order], [4 * face.box for face in small.faces], atol=12)
    assert ((vectors(large)[order] * vectors(small)).sum(axis=1) > 0.98).all()


async def test_small_faces_of_a_large_jpeg_come_from_its_own_pixels(service: Service, shared_images: Path) -> None:
    """The same picture as PNG is never decoded at a fraction: the crops agree."""
    jpeg = enlarged(shared_images / "ifrest_lumia.jpg", 2)
    png = cv2.imencode(".png", cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))[1].tobytes()
    options = ExtractOptions(score_threshold=0.7, with_embedding=False, with_crop=True, limit_faces=5)
    by_jpeg, by_png = await service.extractor.extract(
        [EncodedPicture(jpeg), EncodedPicture(png)], options, deadline=soon()
    )
    for first, second in zip(by_jpeg.faces, by_png.faces, strict=True):
        assert first.crop is not None
        assert second.crop is not None
        difference = np.abs(first.crop.astype(int) - second.crop.astype(int))
        assert difference.mean() < 4, "one crop is blurred: it came from fewer pixels"


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
