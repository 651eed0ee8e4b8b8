"""People are told apart: 200 of them, four portraits each, from the picture's bytes to the embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jetface.domain import Face
from tests.support.drawn import encode
from tests.support.pictures import read_image
from tests.support.portraits import crop_of, middle_face, vector_of

NUM_PEOPLE, NUM_EACH = 200, 4
NUM_FOLDS = 10
SEED = 20260101

RANK1_BY_MODEL = {"w600k_mbf_dequantized": 0.995, "mobilefacenet128": 0.99}
"""Least share of pictures whose most similar other picture shows the same person."""

VERIFICATION = 0.99
"""Least share of pairs told right, thresholds from the other folds."""


@dataclass(frozen=True, slots=True)
class Portraits:
    """The faces of all portraits, in the order of `people`."""

    people: np.ndarray
    """(800,) number of the person."""
    faces: list[Face | None]
    """The face nearest the middle of each portrait; None where none was found."""


@pytest.fixture(scope="module")
def service(serve: Callable[..., Any]) -> Iterator[Any]:
    """The defaults."""
    with serve(rec_model="w600k_mbf_dequantized") as started:
        yield started


@pytest.fixture(scope="module")
def portraits(service: Any, shared_faces: Path) -> Portraits:
    """One pass over all portraits: detection, alignment, recognition."""
    folders = sorted(folder for folder in shared_faces.iterdir() if folder.is_dir())
    paths = [(number, path) for number, folder in enumerate(folders) for path in sorted(folder.iterdir())]
    results = service.extract([path.read_bytes() for _, path in paths], with_crop=True)
    faces = [middle_face(result.faces, result.image_hw) for result in results]
    return Portraits(np.array([number for number, _ in paths]), faces)


@pytest.fixture(scope="module", params=list(RANK1_BY_MODEL))
def recognized(
    request: pytest.FixtureRequest, serve: Callable[..., Any], portraits: Portraits
) -> tuple[str, np.ndarray]:
    """Name of a recognizer and (800, L) unit embeddings; the second one sees the crops of the first."""
    found = [face for face in portraits.faces if face is not None]
    if request.param == "w600k_mbf_dequantized":
        return request.param, np.stack([vector_of(face) for face in found])
    crops = [cv2.imencode(".png", crop_of(face))[1].tobytes() for face in found]
    with serve(rec_model=request.param) as other:
        return request.param, np.stack([vector_of(result.faces[0]) for result in other.embed_crops(crops)])


def test_every_portrait_has_its_face(portraits: Portraits) -> None:
    """800 of 800, with the default threshold."""
    assert len(portraits.faces) == NUM_PEOPLE * NUM_EACH
    assert all(face is not None for face in portraits.faces)


def test_the_most_similar_picture_shows_the_same_person(
    recognized: tuple[str, np.ndarray], portraits: Portraits
) -> None:
    """Rank-1 identification: each picture against the 799 others."""
    name, embeddings = recognized
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -1)
    is_right = portraits.people[cosines.argmax(axis=1)] == portraits.people
    assert is_right.mean() >= RANK1_BY_MODEL[name]


def test_pairs_are_told_apart(recognized: tuple[str, np.ndarray], portraits: Portraits) -> None:
    """10-fold verification: the threshold that is best for nine folds of pairs judges the tenth."""
    _, embeddings = recognized
    rng = np.random.default_rng(SEED)
    first, second = np.triu_indices(len(embeddings), k=1)
    is_same = portraits.people[first] == portraits.people[second]
    same = np.flatnonzero(is_same)
    different = rng.choice(np.flatnonzero(~is_same), size=len(same), replace=False)
    pairs = rng.permutation(np.concatenate([same, different]))
    cosines = np.einsum("nl,nl->n", embeddings[first[pairs]], embeddings[second[pairs]])
    labels = is_same[pairs]
    folds = np.arange(len(pairs)) % NUM_FOLDS
    thresholds = np.linspace(-0.2, 0.8, 1001)
    right = (cosines[None, :] >= thresholds[:, None]) == labels
    accuracies = []
    for fold in range(NUM_FOLDS):
        best = right[:, folds != fold].mean(axis=1).argmax()
        accuracies.append(right[best, folds == fold].mean())
    assert np.mean(accuracies) >= VERIFICATION


def test_a_gallery_of_insightface_rest_keeps_working(service: Any, portraits: Portraits, shared_faces: Path) -> None:
    """There a small picture fills 0.7 of the detector's canvas, here all of it: faces are aligned a little otherwise.

    60 people, enrolled from a photograph that a black margin keeps as small on the canvas as it is there, are looked
    for in their other photographs; the margin comes off the right and the bottom, so what is aligned is the same.
    """
    folders = sorted(folder for folder in shared_faces.iterdir() if folder.is_dir())[:60]
    smaller = []
    for folder in folders:
        pixels = read_image(folder / "1.jpg")
        height_px, width_px = pixels.shape[:2]
        margin_px = round(max(height_px, width_px) / 0.7) - max(height_px, width_px)
        wider = cv2.copyMakeBorder(pixels, 0, margin_px, 0, margin_px, cv2.BORDER_CONSTANT)
        smaller.append(encode(np.asarray(wider, np.uint8)))
    found = [middle_face(result.faces, (250, 250)) for result in service.extract(smaller)]
    stored = np.stack([vector_of(face) for face in found if face is not None])
    assert len(stored) == len(folders)
    ours = np.stack([vector_of(face) for face in portraits.faces[: NUM_EACH * len(folders)] if face is not None])
    assert np.median(np.einsum("nl,nl->n", stored, ours[::NUM_EACH])) >= 0.98
    others = np.delete(np.arange(len(ours)), np.s_[::NUM_EACH])
    is_right = (ours[others] @ stored.T).argmax(axis=1) == portraits.people[others]
    assert is_right.mean() >= 0.99


def test_another_embedding_length_is_served(recognized: tuple[str, np.ndarray]) -> None:
    """512 and 128 values."""
    name, embeddings = recognized
    assert embeddings.shape[1] == {"w600k_mbf_dequantized": 512, "mobilefacenet128": 128}[name]
