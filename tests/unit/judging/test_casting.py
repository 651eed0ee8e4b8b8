"""Models are cast to FP16 by the first policy whose answers stay within the limits, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jetface.errors import ModelContractError
from jetface.graphs.half import ALL_HALF, FULL_SUMS
from jetface.graphs.prepare import prepare_graph
from jetface.heads.families import FAMILIES
from jetface.judging.agreement import DetectionAgreement, EmbeddingAgreement, Pictures
from jetface.judging.casting import Cast, Caster, find_faces
from jetface.judging.drawings import Drawings, draw_pictures
from jetface.registry import ModelSpec, default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.fragile_onnx import offset_model, overflowing_detector, overflowing_model
from tests.support.pictures import read_image
from tests.support.tiny_onnx import arcface_model, arcface_spec, scrfd_spec

pytestmark = pytest.mark.weights  # the starter models


@pytest.fixture(scope="module")
def drawings() -> Drawings:
    return draw_pictures()


def halves(path: Path, spec: ModelSpec, pictures: Pictures) -> list[Cast]:
    return list(Caster(path, spec, pictures).half())


def stored(folder: Path, serialized: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(serialized)
    return path


@pytest.fixture(scope="module")
def registry() -> dict[str, ModelSpec]:
    return dict(read_registry([default_registry_dir()]))


@pytest.mark.parametrize("name", ["det_500m", "starter_det"])
def test_detectors_stay_within_the_limits(
    name: str, registry: dict[str, ModelSpec], shared_models: Path, shared_images: Path
) -> None:
    """On two group pictures: every face is found by both, in the same place."""
    spec = registry[name]
    folder = default_registry_dir() if name.startswith("starter") else shared_models
    pictures = [read_image(shared_images / file) for file in ("t1.jpg", "bbt1.jpg")]
    caster = Caster(folder / spec.file_name, spec, lambda: pictures)
    (cast,) = caster.half()
    assert isinstance(cast.agreement, DetectionAgreement)
    assert cast.agreement.found_by_both >= 10
    assert cast.agreement.only_one == 0
    assert 0.98 <= cast.agreement.worst_iou < 1
    assert cast.fault is None
    assert len(cast.model) < 1.05 * caster.source_bytes / (1 if name.startswith("starter") else 2)


@pytest.mark.parametrize("name", ["w600k_mbf_dequantized", "starter_rec"])
def test_recognizers_stay_within_the_limits(
    name: str, registry: dict[str, ModelSpec], shared_models: Path, shared_faces: Path
) -> None:
    """On the faces of twelve people, which another model finds."""
    spec = registry[name]
    folder = default_registry_dir() if name.startswith("starter") else shared_models
    people = sorted(path for path in shared_faces.iterdir() if path.is_dir())[:12]
    portraits = [read_image(min(person.iterdir())) for person in people]
    found = find_faces(shared_models / "det_500m.onnx", registry["det_500m"], lambda: portraits)
    assert min(map(len, found)) >= 1
    crops = [crop for faces in found for crop in faces]
    (cast,) = halves(folder / spec.file_name, spec, lambda: crops)
    assert isinstance(cast.agreement, EmbeddingAgreement)
    assert cast.agreement.num_compared == len(crops)
    assert cast.agreement.mean_cosine >= 0.9995
    assert 0.999 <= cast.agreement.worst_cosine < 1
    assert cast.fault is None


def test_what_was_converted_is_weights_for_an_entry_of_its_own(
    tmp_path: Path, registry: dict[str, ModelSpec], drawings: Drawings
) -> None:
    """It opens by the same code as any file, several crops at once, and its own answers are near those of FP32."""
    spec = registry["starter_rec"]
    source = default_registry_dir() / spec.file_name
    (cast,) = halves(source, spec, lambda: drawings.crops[:2])
    answers = []
    for path in (source, stored(tmp_path, cast.model)):
        graph = prepare_graph(path, spec)
        assert graph.is_batch_free
        (backend,) = open_onnx_backends(graph.model, max_batch_size=4)
        head = FAMILIES[spec.family].probe(spec, backend, graph.input_hw).head
        answers.append(np.stack([embedding.vector for embedding in head.run(backend, drawings.crops[:3])]))
    assert (np.einsum("nl,nl->n", *answers) > 0.999).all()


def test_values_that_overflow_half_precision_are_refused(tmp_path: Path, drawings: Drawings) -> None:
    """FP32 has room for them: such a graph would answer on a CPU, and with nonsense on a GPU."""
    path = stored(tmp_path, overflowing_model())
    casts = halves(path, arcface_spec(), lambda: drawings.crops[:4])
    assert [cast.name for cast in casts] == [ALL_HALF.name, FULL_SUMS.name]
    for cast in casts:
        assert cast.agreement is None
        assert cast.fault == "its answers are not finite: values overflow half precision"


def test_a_detector_that_overflows_is_refused(tmp_path: Path, drawings: Drawings) -> None:
    path = stored(tmp_path, overflowing_detector())
    for cast in halves(path, scrfd_spec(), lambda: drawings.pictures[:1]):
        assert cast.agreement is None
        assert "overflow" in str(cast.fault)


def test_sums_stay_in_fp32_where_the_limits_demand_it(tmp_path: Path, drawings: Drawings) -> None:
    """Near 60000 halves are 32 apart: what is added to it is lost, unless the sum is FP32."""
    path = stored(tmp_path, offset_model(60000))
    casts = halves(path, arcface_spec(), lambda: drawings.crops[:4])
    assert [bool(cast.fault) for cast in casts] == [True, False]
    assert casts[-1].name == FULL_SUMS.name
    careful = arcface_spec().model_copy(update={"fp32_sums": True})
    assert [cast.name for cast in halves(path, careful, lambda: drawings.crops[:4])] == [FULL_SUMS.name]


def test_answers_that_are_only_less_exact_are_told_by_how_much(tmp_path: Path, drawings: Drawings) -> None:
    path = stored(tmp_path, offset_model(6000))
    first = halves(path, arcface_spec(), lambda: drawings.crops[:4])[0]
    assert isinstance(first.agreement, EmbeddingAgreement)
    assert first.fault is not None
    assert first.fault.startswith("an embedding has a cosine of 0.")


def test_no_face_is_no_verdict(registry: dict[str, ModelSpec]) -> None:
    spec = registry["starter_det"]
    black = [np.zeros((64, 64, 3), np.uint8)]
    casts = halves(default_registry_dir() / spec.file_name, spec, lambda: black)
    assert casts[-1].fault == "there was nothing to compare boxes of"


def test_a_graph_in_half_already_is_refused(tmp_path: Path, drawings: Drawings) -> None:
    (first,) = halves(stored(tmp_path, arcface_model()), arcface_spec(), lambda: drawings.crops[:4])
    with pytest.raises(ModelContractError, match="in half precision already"):
        halves(stored(tmp_path, first.model), arcface_spec(), lambda: drawings.crops[:4])


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    spec = scrfd_spec().model_copy(update={"task": "mask", "family": "seeta_mask"})
    with pytest.raises(ModelContractError):
        halves(stored(tmp_path, arcface_model(length=2)), spec, list)
