"""Two looks at a picture: close faces, faces within faces, and the same answer whatever the threshold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jetface.domain import Face, KnownFaces, PictureResult
from tests.support.pictures import read_image
from tests.support.portraits import middle_face, vector_of
from tests.support.shared import require_shared

THRESHOLDS = (0.6, 0.5, 0.3, 0.15)


@pytest.fixture(scope="module")
def service(serve: Callable[..., Any]) -> Iterator[Any]:
    """The defaults."""
    with serve(rec_model="w600k_mbf_dequantized") as started:
        yield started


@pytest.fixture(scope="module")
def portraits(service: Any, shared_faces: Path) -> list[tuple[np.ndarray, Face]]:
    """Pictures of some people, each with the face it is of."""
    paths = sorted(shared_faces.glob("*/*"))[::8]
    results = service.extract([path.read_bytes() for path in paths], with_embedding=False)
    found = [
        (read_image(path), middle_face(result.faces, result.image_hw))
        for path, result in zip(paths, results, strict=True)
    ]
    return [(picture, face) for picture, face in found if face is not None]


def close_up(picture: np.ndarray, face: Face, *, factor: float, side_px: int) -> np.ndarray:
    """Return the square around a face's box, `factor` times its longer side, resized to `side_px`."""
    middle = (face.box[:2] + face.box[2:]) / 2
    half_px = float((face.box[2:] - face.box[:2]).max()) * factor / 2
    scale = side_px / (2 * half_px)
    shift = -(middle - half_px) * scale
    placed = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)
    return cv2.warpAffine(picture, placed, (side_px, side_px), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def encoded(picture: np.ndarray) -> bytes:
    """Return a picture as PNG."""
    return cv2.imencode(".png", picture)[1].tobytes()


def assert_thresholds_only_cut_off(service: Any, pictures: list[bytes]) -> None:
    """What is found at a threshold is what reaches it of what is found at a lower one: boxes, landmarks, scores."""
    by_threshold = [
        service.extract(pictures, score_threshold=threshold, with_embedding=False) for threshold in THRESHOLDS
    ]
    for higher, lower, threshold in zip(by_threshold, by_threshold[1:], THRESHOLDS, strict=False):
        for few, many in zip(higher, lower, strict=True):
            reaching = [face for face in many.faces if face.score >= np.float32(threshold)]
            assert len(few.faces) == len(reaching)
            for face, same in zip(few.faces, reaching, strict=True):
                assert face.score == pytest.approx(same.score, abs=1e-4)
                np.testing.assert_allclose(face.landmarks, same.landmarks, atol=0.02)
                np.testing.assert_allclose(face.box, same.box, atol=0.02)


@pytest.mark.parametrize("threshold", THRESHOLDS[:3])
@pytest.mark.parametrize(
    ("name", "score", "share"),
    [("close_crop_a.jpg", 0.68, 0.6), ("close_crop_b.jpg", 0.71, 0.7), ("Keanu_Reeves_0012.jpg", 0.836, 0.3)],
)
def test_a_close_face_is_one_face_at_any_threshold(
    service: Any, name: str, score: float, share: float, threshold: float
) -> None:
    """With its own score, and as large as it is: not a part of it instead, nor besides."""
    picture = require_shared("cases", "faces", name).read_bytes()
    (result,) = service.extract([picture], score_threshold=threshold, with_embedding=False)
    (face,) = result.faces
    assert face.score >= score - 0.001
    assert np.prod(face.box[2:] - face.box[:2]) > share * np.prod(result.image_hw)


def test_a_selfie_with_a_card_is_two_faces(service: Any) -> None:
    """The largest is the holder's, who is not the card's owner."""
    selfie, owner = (
        require_shared("cases", "faces", name).read_bytes()
        for name in ("selfie_with_card_Aaron_0.jpg", "card_owner.png")
    )
    for threshold in THRESHOLDS[:3]:
        (both,) = service.extract([selfie], score_threshold=threshold)
        assert len(both.faces) == 2
        largest, owners = service.extract([selfie, owner], limit_faces=1, score_threshold=threshold)
        (holder,), (card_owner,) = largest.faces, owners.faces
        card = min(both.faces, key=lambda face: face.box[2] - face.box[0])
        assert holder.box[2] - holder.box[0] > 700
        assert float(holder.embedding.vector @ card_owner.embedding.vector) < 0.1
        assert float(card.embedding.vector @ card_owner.embedding.vector) > 0.9


def test_faces_on_cards_are_found_beside_those_who_hold_them(
    service: Any, portraits: list[tuple[np.ndarray, Face]]
) -> None:
    """Cards of other sizes, elsewhere; whichever of the two has the better score."""
    pictures, places = [], []
    for number, (holder, owner) in enumerate(itertools.pairwise(portraits)):
        selfie = close_up(*holder, factor=(1.1, 1.25)[number % 2], side_px=900)
        side_px = (100, 140, 200)[number % 3]
        left, top = 80 + 97 * number % 560, 560 + 31 * number % 120
        selfie[top - 20 : top + side_px + 20, left - 20 : left + side_px + 100] = 225
        selfie[top : top + side_px, left : left + side_px] = close_up(*owner, factor=1.8, side_px=side_px)
        pictures.append(encoded(selfie))
        places.append((left + side_px / 2, top + side_px / 2))
    results = service.extract(pictures, with_embedding=False)
    num_weaker_cards = 0
    for result, place in zip(results, places, strict=True):
        largest = max(result.faces, key=lambda face: face.box[2] - face.box[0])
        assert largest.box[2] - largest.box[0] > 400
        (card,) = [
            face
            for face in result.faces
            if face is not largest and np.abs((face.box[:2] + face.box[2:]) / 2 - place).max() < 50
        ]
        num_weaker_cards += card.score < largest.score
    assert 0 < num_weaker_cards < len(results)


def test_thresholds_only_cut_off_on_pictures_with_many_faces(service: Any, shared_images: Path) -> None:
    assert_thresholds_only_cut_off(service, [path.read_bytes() for path in sorted(shared_images.rglob("*.*"))])


def test_thresholds_only_cut_off_close_faces(service: Any, portraits: list[tuple[np.ndarray, Face]]) -> None:
    pictures = [
        encoded(close_up(*portrait, factor=factor, side_px=400)) for portrait in portraits for factor in (1.0, 1.4)
    ]
    assert_thresholds_only_cut_off(service, pictures)


def test_a_box_that_was_detected_gives_the_embedding_that_was_extracted(
    service: Any, portraits: list[tuple[np.ndarray, Face]], shared_images: Path
) -> None:
    """Cosine 0.999 for close faces, and for all others."""
    pictures = [encoded(close_up(*portrait, factor=1.2, side_px=500)) for portrait in portraits]
    pictures += [path.read_bytes() for path in sorted(shared_images.glob("*.*"))]
    extracted: list[PictureResult] = service.extract(pictures)
    num_faces = 0
    for picture, result in zip(pictures, extracted, strict=True):
        boxes = np.array([face.box for face in result.faces], np.float32).reshape(-1, 4)
        recognized = service.recognize(picture, KnownFaces(boxes=boxes))
        for face, same in zip(result.faces, recognized.faces, strict=True):
            assert float(vector_of(face) @ vector_of(same)) >= 0.999
            num_faces += 1
    assert num_faces > 250
