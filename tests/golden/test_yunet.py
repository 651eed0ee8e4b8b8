"""YuNet at its default threshold: how many of the golden faces it finds, and whether they are told apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetface.geometry.boxes import iou_matrix
from tests.support.portraits import middle_face, vector_of

WIDE_PX = 40
"""What counts as a wide face; narrower ones are hard to recognize, too."""

RECALL = {"yunet_2023mar": (0.8, 0.95), "yunet_n": (0.94, 1.0)}
"""Least share of all golden faces, and of the wide ones, that each finds."""

NUM_PEOPLE, NUM_EACH = 50, 4
RANK1 = 0.99


@pytest.fixture(scope="module", params=list(RECALL))
def served(serve: Callable[..., Any], request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    """Name of a detector, and the defaults with it."""
    with serve(det_model=request.param, rec_model="w600k_mbf_dequantized") as started:
        yield request.param, started


def test_golden_faces_are_found(served: tuple[str, Any], shared_dir: Path, shared_images: Path) -> None:
    """IoU 0.5 to insightface's boxes; by another detector, so not all of what that one found are faces for this one."""
    name, service = served
    golden = json.loads((shared_dir / "golden" / "insightface.json").read_text())["images"]
    results = service.extract([(shared_images / picture).read_bytes() for picture in golden], with_embedding=False)
    is_found: list[bool] = []
    is_wide: list[bool] = []
    for picture, result in zip(golden.values(), results, strict=True):
        expected = np.array([face["bbox"] for face in picture["faces"]], np.float32).reshape(-1, 4)
        found = np.array([face.box for face in result.faces], np.float32).reshape(-1, 4)
        is_found += np.atleast_1d((iou_matrix(expected, found) > 0.5).any(axis=1)).tolist()
        is_wide += (expected[:, 2] - expected[:, 0] >= WIDE_PX).tolist()
    of_all, of_wide = RECALL[name]
    assert len(is_found) == 276
    assert np.mean(is_found) >= of_all
    assert np.mean(np.array(is_found)[is_wide]) >= of_wide


def test_a_group_is_found_whole(served: tuple[str, Any], shared_images: Path) -> None:
    """Six faces, of which OpenCV's threshold of 0.9 finds two with the older file."""
    (result,) = served[1].extract([(shared_images / "t1.jpg").read_bytes()], with_embedding=False)
    assert len(result.faces) == 6


def test_people_are_told_apart(served: tuple[str, Any], shared_faces: Path) -> None:
    """Rank-1 identification, aligned by its landmarks; every portrait has its face."""
    folders = sorted(folder for folder in shared_faces.iterdir() if folder.is_dir())[:NUM_PEOPLE]
    pictures = [path.read_bytes() for folder in folders for path in sorted(folder.iterdir())]
    faces = [middle_face(result.faces, result.image_hw) for result in served[1].extract(pictures)]
    embeddings = np.stack([vector_of(face) for face in faces if face])
    assert len(embeddings) == NUM_PEOPLE * NUM_EACH
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -1)
    people = np.repeat(np.arange(NUM_PEOPLE), NUM_EACH)
    assert np.mean(people[cosines.argmax(axis=1)] == people) >= RANK1
