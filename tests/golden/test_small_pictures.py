"""Pictures that `MAX_UPSCALE` keeps from filling the canvas: the faces stay, and people are told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jetface.domain import KnownFaces, PictureResult
from jetface.geometry.boxes import iou_matrix
from tests.support.encoded import encode
from tests.support.pictures import read_image
from tests.support.portraits import crop_of, middle_face, vector_of

NUM_PEOPLE, NUM_EACH = 20, 4
CANVAS_PX = 640


@pytest.fixture(scope="module")
def service(serve: Callable[..., Any]) -> Iterator[Any]:
    """The defaults."""
    with serve(rec_model="w600k_mbf_dequantized") as started:
        yield started


@pytest.fixture(scope="module")
def unbounded(serve: Callable[..., Any]) -> Iterator[Any]:
    """Every picture fills the canvas."""
    with serve(rec_model="w600k_mbf_dequantized", max_upscale=float("inf")) as started:
        yield started


@pytest.fixture(scope="module")
def portraits(shared_faces: Path) -> list[Path]:
    """Four of each person, 250 px."""
    folders = sorted(shared_faces.iterdir())[:: 200 // NUM_PEOPLE]
    return [path for folder in folders for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def small(portraits: list[Path]) -> list[bytes]:
    """The portraits at 125 px."""
    return [halved(path) for path in portraits]


def halved(path: Path, times: int = 1) -> bytes:
    """Return a picture at half its sides, again and again, as PNG."""
    factor = 0.5**times
    pixels = cv2.resize(read_image(path), None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return encode(".png", np.asarray(pixels, np.uint8))


def vectors(results: list[PictureResult]) -> np.ndarray:
    """Return the embedding of whom each portrait is of, (N, 512)."""
    return np.stack([vector_of(middle_face(result.faces, result.image_hw or (0, 0))) for result in results])


def test_portraits_of_250_px_are_answered_as_ever(service: Any, unbounded: Any, portraits: list[Path]) -> None:
    pictures = [path.read_bytes() for path in portraits[::NUM_EACH]]
    for bounded, free in zip(service.extract(pictures), unbounded.extract(pictures), strict=True):
        assert bounded.detection_scale == free.detection_scale == CANVAS_PX / 250
        np.testing.assert_allclose([face.box for face in bounded.faces], [face.box for face in free.faces], atol=0.01)
        for face, same in zip(bounded.faces, free.faces, strict=True):
            assert float(vector_of(face) @ vector_of(same)) >= 0.9999


def test_people_are_told_apart_as_well(service: Any, unbounded: Any, small: list[bytes]) -> None:
    """Each small portrait has its face, near to what it was, and the most similar other shows the same person."""
    bounded, free = service.extract(small), unbounded.extract(small)
    assert {result.detection_scale for result in bounded} == {service.settings.max_upscale}
    embeddings, filled = vectors(bounded), vectors(free)
    assert np.median(np.einsum("nl,nl->n", embeddings, filled)) >= 0.98
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -1)
    people = np.repeat(np.arange(NUM_PEOPLE), NUM_EACH)
    assert (people[cosines.argmax(axis=1)] == people).all()


def test_crops_are_faces(service: Any, portraits: list[Path]) -> None:
    """Aligned ones of 112 px, sent as pictures."""
    found = service.extract([path.read_bytes() for path in portraits], with_crop=True)
    crops = [crop_of(middle_face(result.faces, (250, 250))) for result in found]
    results = service.extract([encode(".png", crop) for crop in crops])
    assert all(len(result.faces) == 1 for result in results)
    assert {result.detection_scale for result in results} == {service.settings.max_upscale}
    assert np.median(np.einsum("nl,nl->n", vectors(results), vectors(found))) >= 0.95


def test_no_golden_face_is_lost(service: Any, unbounded: Any, shared_images: Path) -> None:
    """Of the pictures that are small once they are halved, or halved again."""
    paths = sorted(shared_images.rglob("*.*"))
    pictures = [
        halved(path, times)
        for path in paths
        for times in (1, 2)
        if max(read_image(path).shape) < CANVAS_PX / service.settings.max_upscale * 2**times
    ]
    bounded, free = (which.extract(pictures, with_embedding=False) for which in (service, unbounded))
    num_faces = 0
    for ours, filled in zip(bounded, free, strict=True):
        expected, found = (
            np.array([face.box for face in result.faces], np.float32).reshape(-1, 4) for result in (filled, ours)
        )
        assert (iou_matrix(expected, found) > 0.5).any(axis=1).all()
        num_faces += len(expected)
    assert num_faces > 30


def test_a_box_that_was_detected_gives_the_embedding_that_was_extracted(service: Any, small: list[bytes]) -> None:
    for picture, result in zip(small[::NUM_EACH], service.extract(small[::NUM_EACH]), strict=True):
        boxes = np.array([face.box for face in result.faces], np.float32)
        for face, same in zip(result.faces, service.recognize(picture, KnownFaces(boxes=boxes)).faces, strict=True):
            assert float(vector_of(face) @ vector_of(same)) >= 0.999
