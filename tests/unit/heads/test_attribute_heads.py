"""The families of gender and age, mask and liveness: what a row means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetface.errors import InferenceError, ModelContractError
from jetface.graphs.prepare import prepare_graph
from jetface.heads.families import FAMILIES
from jetface.heads.genderage import GenderAgeHead
from jetface.heads.minifasnet import LivenessHead, merge_opinions
from jetface.heads.rows import RowHead
from jetface.heads.seeta_mask import MaskHead
from jetface.registry import ModelSpec, default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.function_backend import FunctionBackend

REGISTRY = read_registry([default_registry_dir()])


def head_of(kind: type[RowHead[Any]], name: str) -> Any:
    return kind(REGISTRY[name])


def answering(rows: Any, max_batch_size: int = 8) -> FunctionBackend:
    """A backend that answers with these rows, whatever it is asked."""
    return FunctionBackend(lambda _: (np.asarray(rows, np.float32),), max_batch_size)


def pictures(count: int, side_px: int = 112) -> list[np.ndarray]:
    return [np.full((side_px, side_px, 3), index, np.uint8) for index in range(count)]


def test_gender_is_the_larger_logit_and_age_counts_the_years_passed() -> None:
    rows = np.zeros((3, 202), np.float32)
    rows[0, 1] = rows[1, 0] = 1
    rows[0, 3:63:2] = 1  # older than thirty years of a hundred, wherever they stand
    rows[1, 3::2] = 2
    rows[1, 2::2] = 1
    rows[2, 2::2] = 1
    found = head_of(GenderAgeHead, "genderage_v1").run(answering(rows), pictures(3))
    assert found == [{"gender": 1, "age": 30}, {"gender": 0, "age": 100}, {"gender": 0, "age": 0}]


def test_a_mask_is_worn_when_it_is_more_likely_than_none() -> None:
    """Outputs keep the height and width of the last map."""
    rows = np.reshape([[0.9, 0.1], [0.2, 0.8]], (2, 2, 1, 1))
    worn, bare = head_of(MaskHead, "mask_detector_seeta").run(answering(rows), pictures(2))
    assert (worn["mask"], bare["mask"]) == (True, False)
    assert worn["mask_probs"] == pytest.approx({"mask": 0.9, "no_mask": 0.1})
    assert bare["mask_probs"] == pytest.approx({"mask": 0.2, "no_mask": 0.8})


def test_liveness_is_the_softmax_of_three_kinds() -> None:
    """Even of logits whose exponentials would overflow."""
    rows = [[0.0, np.log(2), 0.0], [1000.0, 0.0, 0.0]]
    live, printed = head_of(LivenessHead, "fasnet_2.7").run(answering(rows), pictures(2, 80))
    np.testing.assert_allclose(live, [0.25, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(printed, [1, 0, 0], atol=1e-6)


def test_opinions_on_liveness_are_averaged() -> None:
    """Live is what is most likely of the three, not what passes a half."""
    both = merge_opinions([np.array([0.1, 0.8, 0.1], np.float32), np.array([0.5, 0.1, 0.4], np.float32)])
    assert both["live"] == pytest.approx(0.45)
    assert both["is_live"]
    assert not merge_opinions([np.array([0.5, 0.45, 0.05], np.float32)])["is_live"]


def test_runs_are_as_long_as_the_backend_takes() -> None:
    backend = FunctionBackend(lambda batch: (batch[:, :2, 0, 0],), max_batch_size=2)
    masks = head_of(MaskHead, "mask_detector_seeta").run(backend, pictures(5))
    assert [len(batch) for batch in backend.batches] == [2, 2, 1]
    assert [mask["mask_probs"]["mask"] for mask in masks] == [0, 1, 2, 3, 4]


def test_no_picture_no_run() -> None:
    backend = answering([])
    for kind, name in (
        (GenderAgeHead, "genderage_v1"),
        (MaskHead, "mask_detector_seeta"),
        (LivenessHead, "fasnet_4.0"),
    ):
        assert head_of(kind, name).run(backend, []) == []
    assert not backend.batches


def test_an_answer_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(InferenceError, match="not finite"):
        head_of(MaskHead, "mask_detector_seeta").run(answering([[np.nan, 1]]), pictures(1))


def test_a_graph_with_other_rows_is_refused() -> None:
    with pytest.raises(ModelContractError, match=r"\[1, 202\]; found \[1, 3\]"):
        GenderAgeHead.probe(REGISTRY["genderage_v1"], answering([[1, 2, 3]]))


@pytest.mark.parametrize("name", ["genderage_v1", "mask_detector_seeta", "fasnet_2.7", "fasnet_4.0"])
def test_real_weights_answer_a_batch_as_they_answer_one_by_one(shared_models: Path, name: str) -> None:
    spec: ModelSpec = REGISTRY[name]
    graph = prepare_graph(shared_models / spec.file_name, spec)
    assert graph.is_batch_free
    (backend,) = open_onnx_backends(graph.model, max_batch_size=4)
    probed = FAMILIES[spec.family].probe(spec, backend, graph.input_hw)
    rng = np.random.default_rng(0)
    items = [rng.integers(0, 256, probed.probe_item.shape).astype(np.uint8) for _ in range(3)]
    together = probed.head.run(backend, items)
    alone = [probed.head.run(backend, [item])[0] for item in items]
    one, other = ([_numbers(result) for result in results] for results in (together, alone))
    np.testing.assert_allclose(one, other, atol=1e-5)


def _numbers(result: Any) -> Any:
    """Return all numbers of an answer."""
    if not isinstance(result, dict):
        return np.ravel(result).tolist()
    return [number for value in result.values() for number in _numbers(value)]
