"""Packs: several models under one name."""

from __future__ import annotations

import pytest

from jetface.models.weights import expand, packs_of
from jetface.registry import ModelSpec, RegistryError, default_registry_dir, read_registry
from tests.support.weights import make_spec

SHIPPED = read_registry([default_registry_dir()])


def entry(name: str, *packs: str) -> ModelSpec:
    return make_spec(b"", name=name).model_copy(update={"packs": packs})


REGISTRY = {spec.name: spec for spec in (entry("a", "x", "y"), entry("b", "x"), entry("c"), entry("y", "z"))}


@pytest.mark.parametrize(
    ("pack", "names"),
    [
        ("antelopev2", {"scrfd_10g_bnkps", "glintr100"}),
        ("buffalo_l", {"det_10g", "w600k_r50"}),
        ("buffalo_m", {"det_2.5g", "w600k_r50"}),
        ("buffalo_sc", {"det_500m", "w600k_mbf"}),
        ("opencv", {"yunet_2023mar", "sface_2021dec"}),
    ],
)
def test_a_shipped_pack_finds_and_recognizes_faces(pack: str, names: set[str]) -> None:
    """A detector and a recognizer, all of which can be downloaded, and no model has the pack's name."""
    specs = expand([pack], SHIPPED)
    assert {spec.name for spec in specs} == names
    assert {spec.task for spec in specs} == {"detection", "recognition"}
    assert all(spec.download for spec in specs)
    assert pack not in SHIPPED


def test_packs_are_in_order() -> None:
    assert packs_of(REGISTRY) == {"x": ("a", "b"), "y": ("a",), "z": ("y",)}
    assert list(packs_of(SHIPPED)) == sorted(packs_of(SHIPPED))


def test_models_and_packs_mix_and_nothing_comes_twice() -> None:
    assert [spec.name for spec in expand(["c", "x", "b"], REGISTRY)] == ["c", "a", "b"]


def test_a_name_that_is_both_is_the_model() -> None:
    assert [spec.name for spec in expand(["y"], REGISTRY)] == ["y"]


def test_all_unknown_names_are_told() -> None:
    with pytest.raises(RegistryError, match="neither model nor pack: nope, nor; see `jetface models list`"):
        expand(["nope", "a", "nor"], REGISTRY)
