"""The plate_ocr family: probabilities of slots to a text, and entries and graphs that cannot be one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jetface.domain import PlateText
from jetface.errors import InferenceError, ModelContractError
from jetface.heads.families import entry_fault
from jetface.heads.plate_ocr import PlateOcr
from jetface.registry import default_registry_dir, read_registry
from tests.support.function_backend import FunctionBackend

SHIPPED = read_registry([default_registry_dir()])["plate_ocr_cct_xs"]
ALPHABET = SHIPPED.alphabet or ""
SURE = 0.7


def slots_of(text: str) -> NDArray[np.float32]:
    """Return (9, 37) probabilities by which this text is read, each `SURE`."""
    slots = np.full((9, len(ALPHABET)), (1 - SURE) / (len(ALPHABET) - 1), np.float32)
    for slot, character in enumerate(text.ljust(9, "_")):
        slots[slot, ALPHABET.index(character)] = SURE
    return slots


def read(*texts: str) -> list[PlateText]:
    """Run the head on a graph that answers so."""
    answer = np.stack([slots_of(text) for text in texts])
    backend = FunctionBackend(lambda batch: (answer[: len(batch)],), max_batch_size=len(texts))
    head = PlateOcr.probe(SHIPPED, backend)
    return head.run(backend, [np.zeros((64, 128, 3), np.uint8)] * len(texts))


@pytest.mark.parametrize(
    ("slots", "text"), [("B21GSB", "B21GSB"), ("ABC123XYZ", "ABC123XYZ"), ("AB_12", "AB_12"), ("_B1", "_B1"), ("", "")]
)
def test_pads_at_the_end_are_no_part_of_the_text(slots: str, text: str) -> None:
    (found,) = read(slots)
    assert found.text == text
    np.testing.assert_allclose(found.certainties, [SURE] * len(text), rtol=1e-6)
    assert found.confidence == pytest.approx(SURE if text else 0)


def test_each_picture_has_its_own_text() -> None:
    assert [found.text for found in read("B1", "CJ02ABC")] == ["B1", "CJ02ABC"]


@pytest.mark.parametrize("shape", [(1, 37, 9), (1, 9, 36), (1, 10, 37), (9, 37)])
def test_another_shape_is_refused_with_what_was_found(shape: tuple[int, ...]) -> None:
    backend = FunctionBackend(lambda _: (np.zeros(shape, np.float32),))
    with pytest.raises(ModelContractError) as refused:
        PlateOcr.probe(SHIPPED, backend)
    assert str(list(shape)) in refused.value.message


def test_logits_are_refused() -> None:
    backend = FunctionBackend(lambda _: (3 * slots_of("B1")[None],))
    with pytest.raises(InferenceError, match="softmax"):
        PlateOcr.probe(SHIPPED, backend)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"alphabet": "AAB_"}, "alphabet"),
        ({"pad": "-"}, "pad"),
        ({"pad": None}, "pad"),
        ({"slots": None}, "slots"),
        ({"box_enlargement": None}, "box_enlargement"),
        ({"labels": ("a", "b")}, "labels"),
    ],
)
def test_an_entry_that_cannot_be_one_is_refused(changes: dict[str, Any], word: str) -> None:
    assert entry_fault(SHIPPED) is None
    assert word in (entry_fault(SHIPPED.model_copy(update=changes)) or "")
