"""Both clients against the started service with real weights."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from jetface_client import ExtractOptions, PictureError, RequestRefusedError, UnauthorizedError, Url
from tests.client.conftest import Ask
from tests.support.pictures import decode_image, read_image
from tests.support.server import Server


@pytest.fixture
def photo(shared_images: Path) -> Path:
    """A picture of six people."""
    return shared_images / "t1.jpg"


class TestExtract:
    def test_faces_are_arrays(self, ask: Ask, server: Server, photo: Path) -> None:
        picture = ask(server.url, "extract", photo)
        assert len(picture.faces) == 6
        assert picture.failure is None
        assert picture.took_ms > 0
        face = picture.faces[0]
        assert face.box.shape == (4,)
        assert face.landmarks.shape == (5, 2)
        assert face.embedding.dtype == np.float32
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
        assert picture.embeddings.shape == (6, 128)
        assert face.norm > 0
        assert 0.5 < face.score <= 1
        assert face.gender is None
        assert face.crop_jpeg is None

    def test_options_decide(self, ask: Ask, server: Server, photo: Path) -> None:
        options = ExtractOptions(limit_faces=1, embeddings=False, landmarks=False, crops=True)
        (face,) = ask(server.url, "extract", str(photo), options).faces
        assert face.embedding is None
        assert face.landmarks is None
        crop = decode_image(face.crop_jpeg)
        assert crop is not None
        assert crop.shape == (112, 112, 3)

    def test_attributes_and_quality(self, ask: Ask, server: Server, photo: Path) -> None:
        options = ExtractOptions(limit_faces=1, gender_age=True, masks=True, liveness=True, quality=True)
        (face,) = ask(server.url, "extract", photo, options).faces
        assert face.gender in {0, 1}
        assert 0 < face.age < 100
        assert face.has_mask is False
        assert 0 <= face.mask_probability < 0.5
        assert isinstance(face.is_live, bool)
        assert 0 <= face.live_probability <= 1
        assert 0 < face.quality.score <= 1
        assert -90 <= face.quality.yaw <= 90
        strict = ExtractOptions(min_quality=face.quality.score, quality=True)
        kept = ask(server.url, "extract", photo, strict).faces
        assert kept
        assert all(other.quality.score >= face.quality.score for other in kept)

    def test_a_picture_fails_in_its_slot(self, ask: Ask, server: Server, photo: Path) -> None:
        bad, good = ask(server.url, "extract_many", [b"no picture", photo.read_bytes()])
        assert bad.faces == ()
        assert bad.failure.message
        assert good.failure is None

    def test_one_picture_alone_raises(self, ask: Ask, server: Server) -> None:
        with pytest.raises(PictureError) as raised:
            ask(server.url, "detect", b"no picture")
        assert raised.value.code == "image_decode"

    def test_no_face_is_no_failure(self, ask: Ask, server: Server) -> None:
        blank = cv2.imencode(".png", np.full((64, 64, 3), 127, np.uint8))[1].tobytes()
        picture = ask(server.url, "extract", blank)
        assert picture.faces == ()
        assert picture.embeddings.shape == (0, 0)


def test_detect_then_recognize_gives_the_embedding_of_extract(ask: Ask, server: Server, photo: Path) -> None:
    found = ask(server.url, "detect", photo, limit_faces=2, threshold=0.4, min_face_size=10)
    assert found.image_hw == (886, 1280)
    assert found.faces[0].embedding is None
    known = ask(server.url, "recognize", photo, landmarks=[face.landmarks for face in found.faces])
    whole = ask(server.url, "extract", photo, ExtractOptions(limit_faces=2))
    assert np.all(np.sum(known.embeddings * whole.embeddings, axis=1) > 0.999)
    (by_box,) = ask(server.url, "recognize_many", [photo], boxes=[[face.box for face in found.faces]])
    assert by_box.embeddings.shape == (2, 128)
    # As a path and as pixels.
    for picture in ask(server.url, "detect_many", [photo, read_image(photo)]):
        assert len(picture.faces) == 6


def test_landmarks_of_extract_are_precise_enough_for_recognize(ask: Ask, server: Server, photo: Path) -> None:
    """They are floats, those of `detect`; faces tell what they were aligned by."""
    whole = ask(server.url, "extract", photo, ExtractOptions(limit_faces=2, quality=True))
    found = ask(server.url, "detect", photo, limit_faces=2)
    known = ask(server.url, "recognize", photo, landmarks=[face.landmarks for face in whole.faces])
    for extracted, detected, given in zip(whole.faces, found.faces, known.faces, strict=True):
        np.testing.assert_allclose(extracted.landmarks, detected.landmarks, rtol=1e-5)
        assert float(extracted.embedding @ given.embedding) > 0.9999
        assert (extracted.landmarks_from, detected.landmarks_from, given.landmarks_from) == (
            "detector", "detector", "given",
        )  # fmt: skip
        assert extracted.visible == detected.visible == given.visible == 1


def test_landmarks_that_can_be_no_faces_are_refused(ask: Ask, server: Server, photo: Path) -> None:
    (face,) = ask(server.url, "detect", photo, limit_faces=1).faces
    with pytest.raises(PictureError, match="mirrored or in a wrong order") as raised:
        ask(server.url, "recognize", photo, landmarks=face.landmarks[[1, 0, 2, 4, 3]])
    assert raised.value.code == "invalid_request"
    with pytest.raises(PictureError, match="finite"):
        ask(server.url, "recognize", photo, boxes=[0, 0, np.nan, 10])
    with pytest.raises(PictureError, match="outside the picture"):
        ask(server.url, "recognize", photo, boxes=[5000, 0, 5010, 10])
    with pytest.raises(ValueError, match="shape"):
        ask(server.url, "recognize", photo, landmarks=face.landmarks.T)


def test_turned_pictures_are_found_where_that_is_asked(ask: Ask, server: Server, photo: Path) -> None:
    """By every call that takes pictures; coordinates are those of the picture as it is."""
    turned = cv2.imencode(".png", np.rot90(read_image(photo), -1))[1].tobytes()
    extracted = ask(server.url, "extract", turned, ExtractOptions(rotations="auto"))
    assert (extracted.rotation, len(extracted.faces)) == (270, 6)
    upright = ask(server.url, "detect", photo)
    assert upright.rotation is None
    found = ask(server.url, "detect", turned, rotations="auto")
    assert found.rotation == 270
    first, x2 = upright.faces[0].landmarks, upright.image_hw[0] - 1
    np.testing.assert_allclose(found.faces[0].landmarks, np.stack([x2 - first[:, 1], first[:, 0]], axis=1), atol=2)
    known = ask(server.url, "recognize", turned, boxes=[face.box for face in found.faces], rotations="auto")
    assert np.all(np.sum(known.embeddings * extracted.embeddings, axis=1) > 0.99)
    assert ask(server.url, "compare", turned, photo, rotations="auto").similarity > 0.99


def test_compare(ask: Ask, server: Server, photo: Path, shared_images: Path) -> None:
    same = ask(server.url, "compare", photo, photo)
    info = ask(server.url, "info")
    (recognizer,) = (model for model in ask(server.url, "models") if model.name == info.recognizer)
    assert same.threshold == pytest.approx(info.match_threshold)
    assert (info.match_threshold, info.false_match_rate) == (0.42, 1e-4)
    assert (recognizer.match_threshold, recognizer.false_match_rate) == (0.42, 1e-4)
    assert same.similarity == pytest.approx(1, abs=1e-3)
    assert same.is_match is True
    other = shared_images / "ifrest_Stallone.jpg"
    matrix = ask(server.url, "compare_many", [photo, other], [other, b"none", photo], threshold=0.5)
    assert matrix.similarities.shape == (2, 3)
    assert matrix.matches.tolist() == [[False, False, True], [True, False, False]]
    assert np.isnan(matrix.similarities[:, 1]).all()
    assert matrix.others[1].failure is not None
    assert matrix.threshold == 0.5


def test_plates_are_read(ask: Ask, server: Server, traffic: bytes) -> None:
    """In one picture, or in several of which one fails alone."""
    picture = ask(server.url, "plates", traffic, limit=1)
    assert picture.image_hw == (720, 1280)
    assert picture.took_ms > 0
    (plate,) = picture.plates
    assert plate.text == "SB90TZI"
    assert plate.box.dtype == np.float32
    assert 0.4 < plate.score <= 1
    assert len(plate.confidences) == len(plate.text)
    assert plate.confidence == pytest.approx(np.mean(plate.confidences), abs=1e-4)
    wide, strict, broken = (
        ask(server.url, "plates_many", [traffic], min_width=200)[0],
        ask(server.url, "plates", traffic, threshold=0.99),
        ask(server.url, "plates_many", [traffic, b"no picture"])[1],
    )
    assert [plate.text for plate in wide.plates] == ["SB90TZI"]
    assert strict.plates == ()
    assert broken.failure.code == "image_decode"
    with pytest.raises(PictureError):
        ask(server.url, "plates", b"no picture")


def test_what_runs_there(ask: Ask, server: Server) -> None:
    info = ask(server.url, "info")
    assert (info.detector, info.recognizer) == ("det_500m", "mobilefacenet128")
    active = {model.name: model for model in ask(server.url, "models") if model.is_active}
    assert active["mobilefacenet128"].embedding_length == 128
    ready = ask(server.url, "ready")
    assert ready.is_ready
    assert ready.states.keys() >= {"det_500m", "mobilefacenet128"}


def test_a_folder_comes_in_order(ask: Ask, server: Server, photo: Path, shared_images: Path, tmp_path: Path) -> None:
    """Hidden files are left out, others counted; what is no picture has its failure; progress is told after each."""
    (tmp_path / "deeper").mkdir()
    (tmp_path / ".hidden").mkdir()
    shutil.copy(photo, tmp_path / ".hidden" / "t1.jpg")
    shutil.copy(photo, tmp_path / "b.JPG")
    shutil.copy(shared_images / "ifrest_Stallone.jpg", tmp_path / "deeper" / "c.jpg")
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "d.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "notes.txt").write_text("none")
    told: list[tuple[int, int]] = []
    skipped: Counter[str] = Counter()
    found = ask(
        server.url, "extract_folder", tmp_path, concurrency=2, progress=lambda *seen: told.append(seen), skipped=skipped
    )
    assert [path.relative_to(tmp_path).as_posix() for path, _ in found] == ["a.png", "b.JPG", "deeper/c.jpg"]
    assert [len(picture.faces) for _, picture in found] == [0, 6, 1]
    assert found[0][1].failure is not None
    assert skipped == {".txt": 1, "unreadable": 1}
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_refusals_have_their_class(ask: Ask, server: Server, photo: Path) -> None:
    with pytest.raises(RequestRefusedError) as raised:
        ask(server.url, "detect", photo, threshold=7)
    assert raised.value.status == 422
    assert raised.value.code == "invalid_request"
    assert raised.value.details["fields"][0]["field"] == "threshold"
    with pytest.raises(PictureError, match="URL"):
        ask(server.url, "detect", Url("http://127.0.0.1/x.jpg"))


def test_the_api_key_is_sent(ask: Ask, server: Server) -> None:
    """The service of these tests asks for one; every other call here gives it."""
    with pytest.raises(UnauthorizedError):
        ask(server.url, "info", client={"api_key": "wrong"})
    with pytest.raises(UnauthorizedError):
        ask(server.url, "info", client={"api_key": None})
