"""Answers agree with those of insightface 2.1 on the same pictures and weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetface.geometry.boxes import iou_matrix

THRESHOLD = 0.5
IOU_WIDTH_PX, EMBEDDING_WIDTH_PX = 20, 40
"""Narrowest faces whose boxes and landmarks, and whose embeddings, are compared."""


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> dict[str, Any]:
    """What insightface answered, by picture."""
    images: dict[str, Any] = json.loads((shared_dir / "golden" / "insightface.json").read_text())["images"]
    return images


@pytest.fixture(scope="module")
def golden_embeddings(shared_dir: Path) -> np.ndarray:
    """Unit embeddings, by `embedding_row`."""
    return np.asarray(np.load(shared_dir / "golden" / "insightface_embeddings.npy"))


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def service(serve: Callable[..., Any], request: pytest.FixtureRequest) -> Iterator[Any]:
    """One look at a 640x640 canvas, as insightface was asked."""
    choice = {"backend": request.param, "openvino_precision": "f32"}
    with serve(rec_model="w600k_mbf_dequantized", det_scales=(1.0,), **choice) as started:
        yield started


@pytest.fixture(scope="module")
def results(service: Any, golden: dict[str, Any], shared_images: Path) -> dict[str, Any]:
    """Our answers, by picture."""
    pictures = [(shared_images / name).read_bytes() for name in golden]
    return dict(zip(golden, service.extract(pictures, score_threshold=THRESHOLD), strict=True))


def matched(expected: list[dict[str, Any]], faces: tuple[Any, ...]) -> Iterator[tuple[dict[str, Any], Any, float]]:
    """Yield each golden face with the face of ours that overlaps it most, and how much."""
    if not expected:
        return
    overlaps = iou_matrix(
        np.array([face["bbox"] for face in expected], np.float32), np.array([face.box for face in faces], np.float32)
    )
    for face, row in zip(expected, overlaps, strict=True):
        yield face, faces[int(row.argmax())], float(row.max())


def width_of(face: dict[str, Any]) -> float:
    """Width of a golden face's box, px."""
    return float(face["bbox"][2] - face["bbox"][0])


def test_every_picture_has_the_same_faces(golden: dict[str, Any], results: dict[str, Any]) -> None:
    """No picture fails, none has a face more or less, and each golden face is met by one of ours."""
    for name, expected in golden.items():
        assert results[name].error is None
        assert list(results[name].image_hw) == expected["shape"][:2]
        faces = results[name].faces
        assert len(faces) == len(expected["faces"]), name
        assert all(overlap > 0.5 for _, _, overlap in matched(expected["faces"], faces)), name
        assert len({id(face) for _, face, _ in matched(expected["faces"], faces)}) == len(faces), name


def test_boxes_landmarks_and_scores_agree(golden: dict[str, Any], results: dict[str, Any]) -> None:
    """IoU 0.98 and landmarks within 1 % of the width for faces from 20 px, scores within 0.02 for all."""
    for name, expected in golden.items():
        for face, ours, overlap in matched(expected["faces"], results[name].faces):
            assert ours.score == pytest.approx(face["score"], abs=0.02), name
            if width_of(face) >= IOU_WIDTH_PX:
                assert overlap >= 0.98, name
                shift = np.linalg.norm(ours.landmarks - np.array(face["landmarks"]), axis=1).max()
                assert shift <= 0.01 * width_of(face), name


def test_embeddings_agree(golden: dict[str, Any], results: dict[str, Any], golden_embeddings: np.ndarray) -> None:
    """Cosine 0.999 for faces from 40 px; the norm before normalisation within 2 %."""
    compared = 0
    for name, expected in golden.items():
        for face, ours, _ in matched(expected["faces"], results[name].faces):
            assert np.linalg.norm(ours.embedding.vector) == pytest.approx(1, abs=1e-5)
            if width_of(face) >= EMBEDDING_WIDTH_PX:
                cosine = float(ours.embedding.vector @ golden_embeddings[face["embedding_row"]])
                assert cosine >= 0.999, (name, face["bbox"])
                assert ours.embedding.norm == pytest.approx(face["norm"], rel=0.02), name
                compared += 1
    assert compared > 100


def test_a_batch_of_pictures_keeps_each_to_its_own(
    service: Any, golden: dict[str, Any], results: dict[str, Any], shared_images: Path
) -> None:
    """A picture alone answers as it did among the others, and in the same order."""
    for name in ("t1.jpg", "newton.png"):
        (alone,) = service.extract([(shared_images / name).read_bytes()], score_threshold=THRESHOLD)
        assert len(alone.faces) == len(golden[name]["faces"])
        for a, b in zip(alone.faces, results[name].faces, strict=True):
            np.testing.assert_allclose(a.box, b.box, atol=0.01)
            assert float(a.embedding.vector @ b.embedding.vector) > 0.9999


def test_close_faces_are_found(serve: Callable[..., Any], shared_images: Path) -> None:
    """With defaults every picture that a face fills has one face, as large as the picture; with one look, none has."""
    pictures = [path.read_bytes() for path in sorted((shared_images / "tight_crops").iterdir())]
    assert pictures
    with serve(rec_model="none") as defaults:
        for result in defaults.extract(pictures, with_embedding=False):
            (face,) = result.faces
            height, width = result.image_hw
            assert (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]) > 0.5 * height * width


def test_the_second_look_adds_nothing_to_other_pictures(
    serve: Callable[..., Any], golden: dict[str, Any], shared_images: Path
) -> None:
    """On pictures whose faces are all small enough for one look, defaults find the same faces."""
    pictures = [(shared_images / name).read_bytes() for name in golden]
    with serve(rec_model="none") as defaults, serve(rec_model="none", det_scales=(1.0,)) as one_look:
        twice = defaults.extract(pictures, with_embedding=False)
        once = one_look.extract(pictures, with_embedding=False)
    for name, a, b in zip(golden, twice, once, strict=True):
        assert len(a.faces) == len(b.faces), name
