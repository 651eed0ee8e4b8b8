"""Turned pictures: with `rotations=auto` they are answered as they are upright, in their own coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jetface.domain import Face, KnownFaces, PictureResult
from jetface.geometry.boxes import iou_matrix
from tests.support.pictures import read_image
from tests.support.portraits import vector_of

TURNS = (90, 180, 270)


@pytest.fixture(scope="module")
def service(serve: Callable[..., Any]) -> Iterator[Any]:
    """The defaults, and liveness."""
    with serve(rec_model="w600k_mbf_dequantized", liveness_model=("fasnet_2.7",)) as started:
        yield started


@pytest.fixture(scope="module")
def portraits(shared_faces: Path) -> list[np.ndarray]:
    """Every eighth."""
    return [read_image(path) for path in sorted(shared_faces.glob("*/*"))[::8]]


@pytest.fixture(scope="module")
def upright(service: Any, portraits: list[np.ndarray]) -> list[PictureResult]:
    """What is found of them as they are."""
    results: list[PictureResult] = service.extract(
        [encoded(picture) for picture in portraits], attributes=frozenset({"liveness"})
    )
    return results


def encoded(picture: np.ndarray, clockwise: int = 0) -> bytes:
    """Return a picture as PNG, turned by so many degrees clockwise."""
    return cv2.imencode(".png", np.rot90(picture, -clockwise // 90))[1].tobytes()


def turned_box(box: np.ndarray, image_hw: tuple[int, int], clockwise: int) -> list[float]:
    """Return where a box lies in the picture that is turned clockwise."""
    height, width = image_hw
    x1, y1, x2, y2 = box.tolist()
    return {
        90: [height - y2, x1, height - y1, x2],
        180: [width - x2, height - y2, width - x1, height - y1],
        270: [y1, width - x2, y2, width - x1],
    }[clockwise]


def pairs(expected: PictureResult, found: PictureResult, clockwise: int) -> list[tuple[Face, Face]]:
    """Return each face of the upright picture with that of the turned one that lies where it should."""
    if not expected.faces or not found.faces:
        return []
    assert expected.image_hw is not None
    boxes = [turned_box(face.box, expected.image_hw, clockwise) for face in expected.faces]
    overlaps = iou_matrix(np.array(boxes, np.float32), np.array([face.box for face in found.faces], np.float32))
    return [
        (face, found.faces[int(row.argmax())])
        for face, row in zip(expected.faces, overlaps, strict=True)
        if row.max() > 0.8
    ]


@pytest.mark.parametrize("clockwise", TURNS)
def test_turned_portraits_are_answered_as_upright_ones(
    service: Any, portraits: list[np.ndarray], upright: list[PictureResult], clockwise: int
) -> None:
    """At least 99 of 100 faces, embeddings at cosine 0.99, and nearly the same liveness."""
    pictures = [encoded(picture, clockwise) for picture in portraits]
    results = service.extract(pictures, rotations="auto", attributes=frozenset({"liveness"}))
    found = [pair for one, other in zip(upright, results, strict=True) for pair in pairs(one, other, clockwise)]
    assert len(found) >= 0.99 * sum(len(result.faces) for result in upright)
    assert min(float(vector_of(a) @ vector_of(b)) for a, b in found) >= 0.99
    live = np.array([[face.attributes["liveness"]["live"] for face in pair] for pair in found])
    assert live.shape == (len(found), 2)
    assert np.abs(live[:, 0] - live[:, 1]).mean() < 0.03
    assert np.mean([result.rotation == (360 - clockwise) % 360 for result in results]) >= 0.99


def test_upright_pictures_are_answered_as_before(
    service: Any, portraits: list[np.ndarray], upright: list[PictureResult], shared_images: Path
) -> None:
    """Portraits, and groups."""
    results = service.extract([encoded(picture) for picture in portraits], rotations="auto")
    groups = [path.read_bytes() for path in sorted(shared_images.glob("*.*")) if path.stem != "inspireface_r90"]
    before, after = service.extract(groups), service.extract(groups, rotations="auto")
    for one, other in zip([*upright, *before], [*results, *after], strict=True):
        assert (one.rotation, other.rotation) == (None, 0)
        assert [face.score for face in one.faces] == pytest.approx([face.score for face in other.faces], abs=1e-4)


def test_a_picture_that_came_turned_is_found_out(service: Any, shared_images: Path) -> None:
    """As it is it shows a face of 0.66 with landmarks that are none."""
    picture = (shared_images / "inspireface_r90.jpg").read_bytes()
    (result,) = service.extract([picture], rotations="auto")
    assert result.rotation == 270
    assert result.faces[0].score > 0.8
    eyes = result.faces[0].landmarks[:2]
    assert abs(eyes[1] - eyes[0])[1] > 3 * abs(eyes[1] - eyes[0])[0]


@pytest.mark.parametrize("clockwise", TURNS)
def test_landmarks_and_boxes_of_turned_pictures_can_be_recognized(
    service: Any, portraits: list[np.ndarray], upright: list[PictureResult], clockwise: int
) -> None:
    for picture, expected in zip(portraits[:10], upright[:10], strict=True):
        turned = encoded(picture, clockwise)
        (found,) = service.extract([turned], rotations="auto", with_embedding=False, limit_faces=1)
        (face,) = found.faces
        known = (
            KnownFaces(landmarks=face.landmarks[None]),
            KnownFaces(boxes=face.box[None], rotations="auto"),
        )
        for given in known:
            (same,) = service.recognize(turned, given).faces
            largest = max(expected.faces, key=lambda one: one.box[2] - one.box[0])
            assert float(vector_of(same) @ vector_of(largest)) >= 0.99


def test_nothing_found_in_any_turn_is_no_face(service: Any) -> None:
    (result,) = service.extract([encoded(np.full((90, 130, 3), 128, np.uint8))], rotations="auto")
    assert (result.faces, result.rotation) == ((), 0)
