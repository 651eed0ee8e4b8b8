"""SFace, an entry like any recognizer's, embeds as OpenCV's `FaceRecognizerSF` does; AdaFace is an entry too."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from jetface.domain import Image
from jetface.geometry.alignment import TEMPLATE, align
from jetface.graphs.prepare import prepare_graph
from jetface.heads.arcface import Arcface
from jetface.heads.families import FAMILIES, entry_fault
from jetface.registry import ModelSpec, default_registry_dir, read_registry
from jetface.runtimes.backend import Backend
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import arcface_model

SHIPPED = read_registry([default_registry_dir()])["sface_2021dec"]


def opened(model: bytes, folder: Path, spec: ModelSpec) -> Backend:
    path = folder / "recognizer.onnx"
    path.write_bytes(model)
    graph = prepare_graph(path, spec)
    (backend,) = open_onnx_backends(graph.model)
    return backend


def face_row(landmarks: np.ndarray) -> np.ndarray:
    """What OpenCV aligns by: a row of its detector."""
    return np.concatenate([[0, 0, 1, 1], landmarks.ravel(), [1]]).astype(np.float32)[None]


def crops(num: int) -> list[Image]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (112, 112, 3), np.uint8) for _ in range(num)]


def test_embeds_as_opencv_does(tmp_path: Path) -> None:
    """Same crop, same graph: the numbers agree, so channel order and scale do."""
    model = arcface_model(batch=1, length=128)
    backend = opened(model, tmp_path, SHIPPED)
    path = tmp_path / "opencv.onnx"
    path.write_bytes(model)
    opencv = cv2.FaceRecognizerSF.create(str(path), "")
    pictures = crops(4)
    probed = FAMILIES["sface"].probe(SHIPPED, backend, (112, 112))
    embeddings = probed.head.run(backend, pictures)
    features = [opencv.feature(picture).ravel() for picture in pictures]
    for embedding, feature in zip(embeddings, features, strict=True):
        assert embedding.norm == pytest.approx(float(np.linalg.norm(feature)), rel=1e-4)
        np.testing.assert_allclose(embedding.vector * embedding.norm, feature, rtol=1e-3, atol=1e-2)
    cosine = opencv.match(features[0][None].copy(), features[1][None].copy(), cv2.FaceRecognizerSF_FR_COSINE)
    assert float(embeddings[0].vector @ embeddings[1].vector) == pytest.approx(cosine, abs=1e-4)


@pytest.mark.parametrize("angle_deg", [0, 17, -40, 90, 175])
@pytest.mark.parametrize("scale", [0.6, 1.0, 2.3])
def test_aligns_as_opencv_does(tmp_path: Path, angle_deg: float, scale: float) -> None:
    """`alignCrop` and our alignment cut the same crop out of the same picture: SFace needs no template of its own."""
    path = tmp_path / "recognizer.onnx"
    path.write_bytes(arcface_model(batch=1, length=128))
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (400, 420, 3), np.uint8)
    picture = np.asarray(cv2.GaussianBlur(noise, (0, 0), 3), np.uint8)
    turn = np.deg2rad(angle_deg)
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    landmarks = ((TEMPLATE - 56) @ rotation.T + [210, 200] + rng.normal(0, 1.5, (5, 2))).astype(np.float32)
    wanted = cv2.FaceRecognizerSF.create(str(path), "").alignCrop(picture, face_row(landmarks))
    difference = cv2.absdiff(align(picture, landmarks), wanted)
    assert difference.max() <= 2
    assert difference.mean() < 0.2


def test_an_entry_that_would_scale_pixels_twice_is_refused() -> None:
    """The graph scales them itself; fed otherwise it answers plausibly and wrong."""
    for wrong in ({"mean": 127.5}, {"std": 128.0}, {"channel_order": "bgr"}):
        entry = SHIPPED.model_dump()
        entry["input"] |= wrong
        fault = entry_fault(ModelSpec.model_validate(entry))
        assert fault == 'family sface wants mean = 0, std = 1, channel_order = "rgb"'


def test_the_shipped_entry_is_opencvs_file() -> None:
    """128 numbers, from a commit of the zoo, free for commercial use."""
    assert SHIPPED.embedding_length == 128
    assert SHIPPED.license == "Apache-2.0"
    assert not SHIPPED.non_commercial
    assert SHIPPED.download is not None
    assert SHIPPED.download.url.endswith(SHIPPED.file_name)


def test_a_recognizer_fed_bgr_is_an_entry_too(tmp_path: Path) -> None:
    """AdaFace: ArcFace's normalisation in BGR. A mirrored order of channels is all that changes."""
    arcface = read_registry([default_registry_dir()])["w600k_mbf"].model_copy(update={"embedding_length": 4})
    adaface = arcface.model_copy(update={"input": arcface.input.model_copy(update={"channel_order": "bgr"})})
    backend = opened(arcface_model(), tmp_path, arcface)
    pictures = crops(3)
    in_rgb = Arcface.probe(arcface, backend).run(backend, [np.ascontiguousarray(crop[..., ::-1]) for crop in pictures])
    in_bgr = Arcface.probe(adaface, backend).run(backend, pictures)
    as_it_is = Arcface.probe(arcface, backend).run(backend, pictures)
    for mirrored, native, other in zip(in_rgb, in_bgr, as_it_is, strict=True):
        np.testing.assert_array_equal(native.vector, mirrored.vector)
        assert not np.allclose(native.vector, other.vector, atol=1e-3)
