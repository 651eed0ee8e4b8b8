"""The whole pipeline without HTTP, on real weights."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import structlog

from jetface.domain import ExtractOptions, Face, KnownFaces, PictureResult
from jetface.errors import DeadlineExceededError, ImageDecodeError, ModelError, RequestError, ServiceError
from jetface.imaging.sources import EncodedPicture
from jetface.models.store import STEP_ASIDE
from jetface.pipeline.extract import check_known
from jetface.service import Service, open_service
from jetface.settings import Settings
from tests.support.encoded import encode, exif, png_with_exif
from tests.support.pictures import decode_image, read_image
from tests.support.shared import require_shared

OPTIONS = ExtractOptions(score_threshold=0.5)


def settings_for(shared_models: Path, folder: Path, **more: Any) -> Settings:
    """Real weights out of the shared mirror."""
    return Settings(
        models_dir=folder, model_mirror=str(shared_models), backend="onnxruntime",
        **{"det_model": "det_500m", "rec_model": "w600k_mbf_dequantized", **more},
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
    image = read_image(path)
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
    pixels = decode_image(jpeg)
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
    bmp = encode(".bmp", decode_image(jpeg))
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
    boxes = np.stack([face.box for face in found.faces]) + np.array([-6, -4, 5, 7], np.float32)
    (known,) = await service.extractor.recognize([source], [KnownFaces(boxes=boxes)], deadline=soon())
    np.testing.assert_array_equal([face.box for face in known.faces], boxes)
    assert ((vectors(known) * vectors(found)).sum(axis=1) > 0.999).all()


@pytest.mark.parametrize("score_threshold", [0.05, 0.2])
async def test_known_boxes_find_every_face_that_detection_gives(
    service: Service, shared_images: Path, score_threshold: float
) -> None:
    """At any threshold down to 0.05; and detection gives no box that is refused as none of a face."""
    source = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    options = replace(OPTIONS, score_threshold=score_threshold)
    (found,) = await service.extractor.extract([source], options, deadline=soon())
    boxes = np.stack([face.box for face in found.faces])
    (known,) = await service.extractor.recognize([source], [KnownFaces(boxes=boxes)], deadline=soon())
    assert {face.landmarks_from for face in known.faces} == {"detector"}
    assert ((vectors(known) * vectors(found)).sum(axis=1) > 0.999).all()


async def test_a_threshold_of_nothing_gives_no_box_beside_the_picture(service: Service, shared_images: Path) -> None:
    """What anchors at the edge say of the padding is nobody's face."""
    source = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    options = replace(OPTIONS, score_threshold=0.0, with_embedding=False)
    (found,) = await service.extractor.extract([source], options, deadline=soon())
    assert found.image_hw is not None
    assert len(found.faces) > 100
    check_known(KnownFaces(boxes=np.stack([face.box for face in found.faces])), found.image_hw, picture=0)


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


LEFT_RIGHT = [1, 0, 2, 4, 3]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda points, _: points[:, LEFT_RIGHT], "mirrored or in a wrong order"),
        (lambda points, _: points[..., ::-1], "landmarks.1.0: the five points"),
        (lambda points, hw: points / [hw[1], hw[0]], "fractions"),
        (lambda points, hw: points + np.array([hw[1], hw[0]], np.float32), "outside the picture of 1280x886 pixels"),
        (lambda points, _: points * 0 + 300, "few pixels"),
        (lambda points, _: points * 1e5, "outside the picture"),
        (lambda points, _: points * np.nan, "finite"),
    ],
    ids=["left-right", "x-y", "fractions", "outside", "equal", "huge", "nan"],
)
async def test_landmarks_that_can_be_no_faces_fail_their_own_picture(
    service: Service, shared_images: Path, spoil: Callable[[np.ndarray, tuple[int, int]], np.ndarray], words: str
) -> None:
    """Whichever of its faces it is; what is right beside it is answered."""
    source = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    (found,) = await service.extractor.extract([source], OPTIONS, deadline=soon())
    right = np.stack([face.landmarks for face in found.faces])
    assert found.image_hw is not None
    wrong = np.concatenate([spoil(right[:1].copy(), found.image_hw), right]).astype(np.float32)
    known = [KnownFaces(landmarks=faces) for faces in (right, wrong)]
    good, bad = await service.extractor.recognize([source, source], known, deadline=soon())
    assert good.error is None
    assert {(face.landmarks_from, face.visible) for face in good.faces} == {("given", 1.0)}
    assert isinstance(bad.error, RequestError)
    assert words in bad.error.message
    assert "landmarks.1.0" in bad.error.message


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([0.1, 0.1, 0.5, 0.6], "fractions"),
        ([300, 200, 80, 100], "is empty"),
        ([1300, 10, 1400, 110], "outside the picture"),
        ([10, 850, 1270, 856], "no face was detected there"),
        ([np.nan, 0, 10, 10], "finite"),
    ],
)
async def test_boxes_that_can_hold_no_face_fail_their_own_picture(
    service: Service, shared_images: Path, box: list[float], words: str
) -> None:
    source = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    known = [KnownFaces(boxes=np.array([rows], np.float32)) for rows in ([80, 80, 160, 190], box)]
    good, bad = await service.extractor.recognize([source, source], known, deadline=soon())
    assert good.error is None
    assert isinstance(bad.error, RequestError)
    assert words in bad.error.message
    assert "boxes.1.0" in bad.error.message


async def test_a_box_as_loose_as_the_picture_gets_its_only_face(service: Service, shared_images: Path) -> None:
    """And one that is within it; where there are several faces in it, landmarks are guessed, which the answer tells."""
    alone = EncodedPicture((shared_images / "ifrest_Stallone.jpg").read_bytes())
    (found,) = await service.extractor.extract([alone], OPTIONS, deadline=soon())
    (face,) = found.faces
    assert found.image_hw is not None
    height, width = found.image_hw
    middle = np.concatenate([face.box[:2] * 0.6 + face.box[2:] * 0.4, face.box[:2] * 0.4 + face.box[2:] * 0.6])
    boxes = np.stack([np.array([0, 0, width, height], np.float32), middle])
    (known,) = await service.extractor.recognize([alone], [KnownFaces(boxes=boxes)], deadline=soon())
    assert (vectors(known) @ vectors(found).T > 0.999).all()
    assert {face.landmarks_from for face in known.faces} == {"detector"}
    group = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    whole = KnownFaces(boxes=np.array([[0, 0, 1280, 886]], np.float32))
    (guessed,) = await service.extractor.recognize([group], [whole], deadline=soon())
    assert [face.landmarks_from for face in guessed.faces] == ["box"]


async def test_embeddings_of_guessed_landmarks_are_marked_and_logged_once(
    shared_models: Path, shared_images: Path, tmp_path: Path
) -> None:
    """With a detector that has no landmarks, by `extract` and by `recognize`; counted, too."""
    cases = require_shared("cases", "graphs")
    for name in ("det_nokps.onnx", "det_nokps.toml"):
        shutil.copy(cases / name, tmp_path / name)
    settings = settings_for(shared_models, tmp_path, det_model="det_nokps")
    source = EncodedPicture((shared_images / "t1.jpg").read_bytes())
    with structlog.testing.capture_logs() as lines:
        async with open_service(settings) as service:
            for _ in range(2):
                (found,) = await service.extractor.extract([source], OPTIONS, deadline=soon())
            boxes = np.stack([face.box for face in found.faces])
            (known,) = await service.extractor.recognize([source], [KnownFaces(boxes=boxes)], deadline=soon())
            counted = service.metrics.registry.get_sample_value("jetface_guessed_faces_total")
    assert found.faces
    assert {face.landmarks_from for face in (*found.faces, *known.faces)} == {"box"}
    assert counted == 2 * len(found.faces) + len(known.faces)
    (line,) = (line for line in lines if line["event"] == "landmarks guessed from boxes")
    assert (line["log_level"], line["model"]) == ("warning", "det_nokps")


async def test_a_face_that_an_edge_cuts_says_how_much_of_it_is_there(service: Service) -> None:
    """Two fifths of it lie outside; `min_quality` counts that, and blurred and cut is no better than blurred."""
    cases = require_shared("cases", "quality")
    options = ExtractOptions(score_threshold=0.5, with_quality=True)

    async def largest(name: str) -> Face:
        source = EncodedPicture((cases / name).read_bytes())
        (result,) = await service.extractor.extract([source], options, deadline=soon())
        return result.faces[0]

    partial, whole, cut = [
        await largest(name) for name in ("partial_left40.png", "blur8_whole.png", "blur8_cut_top.png")
    ]
    assert partial.visible == pytest.approx(0.6, abs=0.15)
    assert partial.quality is not None
    assert partial.visible is not None
    assert partial.quality.score <= partial.visible
    assert whole.quality is not None
    assert cut.quality is not None
    assert cut.quality.score <= whole.quality.score
    assert cut.visible is not None
    assert whole.visible is not None
    assert cut.visible < whole.visible == 1
    source = EncodedPicture((cases / "partial_left40.png").read_bytes())
    strict = ExtractOptions(score_threshold=0.5, min_quality=0.9)
    (kept,) = await service.extractor.extract([source], strict, deadline=soon())
    assert kept.faces == ()


async def test_a_large_noisy_face_keeps_its_embedding(service: Service, shared_images: Path) -> None:
    """Six times enlarged, noise of 40 levels: sampled as it is, its embedding would be another person's."""
    image = read_image(shared_images / "ifrest_Stallone.jpg")
    small = EncodedPicture(cv2.imencode(".png", image)[1].tobytes())
    (found,) = await service.extractor.extract([small], OPTIONS, deadline=soon())
    landmarks = np.stack([face.landmarks for face in found.faces])
    large = cv2.resize(image, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(large + np.random.default_rng(0).normal(0, 40, large.shape), 0, 255).astype(np.uint8)
    source = EncodedPicture(cv2.imencode(".bmp", noisy)[1].tobytes())
    known = KnownFaces(landmarks=((landmarks + 0.5) * 6 - 0.5).astype(np.float32))
    (enlarged_face,) = await service.extractor.recognize([source], [known], deadline=soon())
    assert float(vectors(enlarged_face)[0] @ vectors(found)[0]) > 0.95


async def test_a_picture_lets_go_of_its_pixels_while_a_model_loads(service: Service, shared_images: Path) -> None:
    """They are for those whose models are there; the answer says how long it waited."""
    source = EncodedPicture((shared_images / "ifrest_Stallone.jpg").read_bytes())
    held_pixels: list[int] = []

    @asynccontextmanager
    async def step_aside(_refusal: ServiceError) -> AsyncIterator[None]:
        held_pixels.append(service.loader.budget.held)
        yield

    STEP_ASIDE.set(step_aside)
    (result,) = await service.extractor.extract([source], OPTIONS, deadline=soon())
    assert held_pixels == [0, 0]  # for the detector, and for the recognizer
    assert result.times.load_s > 0
    assert result.faces[0].embedding is not None
    (again,) = await service.extractor.extract([source], OPTIONS, deadline=soon())
    assert len(held_pixels) == 2
    assert again.times.load_s == 0
    assert_one_answer(result, again)


async def test_models_that_go_at_once_are_kept_for_a_picture_that_waits_for_more(
    shared_models: Path, tmp_path: Path, shared_images: Path
) -> None:
    """With a `MODEL_TTL_S` that is shorter than any load, each is loaded once a request, which is answered."""
    source = EncodedPicture((shared_images / "ifrest_Stallone.jpg").read_bytes())
    async with open_service(settings_for(shared_models, tmp_path, model_ttl_s=0.001)) as service:
        for _ in range(2):
            (result,) = await service.extractor.extract([source], OPTIONS, deadline=soon())
            assert result.faces[0].embedding is not None
            while service.store.loaded():  # noqa: ASYNC110 - the sweep tells nobody
                await asyncio.sleep(0.01)
