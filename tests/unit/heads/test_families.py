"""What families allow their entries to say, and the registry as they allow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jetface.heads.families import FAMILIES, entry_fault, read_known
from jetface.registry import ModelSpec, RegistryError, default_registry_dir, read_registry

ENTRY: dict[str, Any] = {
    "name": "mine", "task": "recognition", "family": "arcface", "license": "mine", "source": "me",
    "sha256": "0" * 64, "embedding_length": 256,
    "input": {"height_px": 112, "width_px": 112, "mean": 127.5, "std": 127.5},
}  # fmt: skip
EMOTION = {
    **ENTRY,
    "task": "classification",
    "family": "classifier",
    "embedding_length": None,
    "labels": ["glad", "sad"],
}


def spec_of(entry: dict[str, Any], **changed: Any) -> ModelSpec:
    return ModelSpec.model_validate({key: value for key, value in {**entry, **changed}.items() if value is not None})


def test_shipped_entries_are_all_allowed() -> None:
    assert not read_known([default_registry_dir()]).unreadable


def test_every_entry_of_ours_is_of_a_family_and_every_family_has_an_entry_but_the_classifier() -> None:
    """No classifier comes with jetface."""
    assert {spec.family for spec in read_registry([default_registry_dir()]).values()} == {*FAMILIES} - {"classifier"}


@pytest.mark.parametrize("entry", [ENTRY, EMOTION])
def test_a_sound_entry_has_no_fault(entry: dict[str, Any]) -> None:
    assert entry_fault(spec_of(entry)) is None


@pytest.mark.parametrize(
    ("entry", "changed", "said"),
    [
        (ENTRY, {"family": "scrfd"}, "family scrfd does detection, not recognition"),
        (ENTRY, {"family": "other"}, "there is no other; it is one of scrfd, "),
        (ENTRY, {"embedding_length": None}, "embedding_length is needed"),
        (ENTRY, {"box_enlargement": 2.7}, "box_enlargement means nothing to family arcface"),
        (ENTRY, {"score_threshold": 0.5}, "score_threshold means nothing"),
        (ENTRY, {"labels": ["a", "b"]}, "labels means nothing"),
        (ENTRY, {"input": {**ENTRY["input"], "width_px": 128}}, "an aligned crop is 112x112"),
        (EMOTION, {"labels": None}, "labels is needed"),
        (EMOTION, {"labels": ["glad"]}, "labels: two or more"),
        (EMOTION, {"labels": ["glad", "glad"]}, "each once"),
        (EMOTION, {"match_threshold": 0.5}, "match_threshold means nothing"),
        (EMOTION, {"input": {**ENTRY["input"], "width_px": 0}}, "input: its size is needed"),
    ],
)
def test_what_a_family_does_not_allow_is_said_in_one_line(
    entry: dict[str, Any], changed: dict[str, Any], said: str
) -> None:
    fault = entry_fault(spec_of(entry, **changed))
    assert fault is not None
    assert said in fault
    assert "\n" not in fault


def test_surroundings_of_a_face_may_be_of_any_size() -> None:
    wide = {**ENTRY["input"], "height_px": 224, "width_px": 224}
    assert entry_fault(spec_of(EMOTION, input=wide, box_enlargement=1.2)) is None


def test_an_entry_that_is_not_allowed_is_an_error_for_who_names_it_alone(tmp_path: Path) -> None:
    """As one that cannot be read is: it hides what it would have overridden."""
    (tmp_path / "det_500m.toml").write_text(
        (default_registry_dir() / "det_500m.toml").read_text().replace('family = "scrfd"', 'family = "arcface"')
    )
    registry = read_known([default_registry_dir(), tmp_path])
    assert "w600k_mbf" in registry
    with pytest.raises(RegistryError, match="det_500m: family arcface does recognition, not detection"):
        registry["det_500m"]
