"""What settings say of models becomes registry names."""

from __future__ import annotations

import pytest

from jetface.models.defaults import STARTERS, ModelChooser, starter_notice
from jetface.registry import RegistryError, default_registry_dir, read_registry

REGISTRY = read_registry([default_registry_dir()])


def chooser(*at_hand: str) -> ModelChooser:
    return ModelChooser(REGISTRY, lambda spec: spec.name in at_hand)


@pytest.mark.parametrize("task", ["detection", "recognition"])
def test_auto_is_the_starter_model_when_nothing_is_at_hand(task: str) -> None:
    assert chooser().choose("X_MODEL", "auto", task) == STARTERS[task]


def test_starter_models_are_announced_with_a_way_to_better_ones() -> None:
    notice = starter_notice(["starter_det", "glintr100"])
    assert notice is not None
    assert "(starter_det)" in notice
    assert "jetface models pull" in notice
    assert starter_notice(["det_500m", "glintr100"]) is None


def test_a_starter_of_plates_is_announced_with_another_way() -> None:
    alone = starter_notice(["starter_plate", "plate_ocr_cct_xs"])
    assert alone is not None
    assert "(starter_plate)" in alone
    assert "PLATE_DET_MODEL" in alone
    assert "jetface models pull" not in alone
    beside = starter_notice(["starter_det", "starter_plate"])
    assert beside is not None
    assert "(starter_det, starter_plate)" in beside
    assert "jetface models pull" in beside


def test_auto_is_the_best_at_hand() -> None:
    """Whatever its place in the registry."""
    assert chooser("det_2.5g", "det_10g").require("DET_MODEL", "auto", "detection") == "det_10g"
    assert chooser("mobilefacenet128", "w600k_mbf").choose("REC_MODEL", "auto", "recognition") == "w600k_mbf"


@pytest.mark.parametrize("task", ["detection", "recognition", "gender_age", "mask", "liveness", "plate_detection"])
def test_a_stage_that_can_be_left_out_is(task: str) -> None:
    assert chooser().choose("X_MODEL", "none", task) is None


def test_who_cannot_do_without_says_so() -> None:
    with pytest.raises(RegistryError, match="DET_MODEL='none' is not allowed: a model is needed"):
        chooser().require("DET_MODEL", "none", "detection")


def test_a_name_is_taken_as_it_is() -> None:
    assert chooser().choose("LIVENESS_MODEL", "fasnet_4.0", "liveness") == "fasnet_4.0"


@pytest.mark.parametrize(
    ("variable", "name", "task", "allowed"),
    [
        ("GA_MODEL", "auto", "gender_age", "none or one of genderage_v1"),
        ("MASK_MODEL", "genderage_v1", "mask", "none or one of mask_detector_seeta"),
        ("LIVENESS_MODEL", "fasnet", "liveness", "none or one of fasnet_2.7, fasnet_4.0"),
        ("DET_MODEL", "det_11g", "detection", "auto, none or one of det_10g, "),
        ("REC_MODEL", "det_10g", "recognition", "auto, none or one of "),
    ],
)
def test_another_name_is_refused_in_one_line(variable: str, name: str, task: str, allowed: str) -> None:
    with pytest.raises(RegistryError) as caught:
        chooser().choose(variable, name, task)
    assert str(caught.value).startswith(f"{variable}={name!r} is not allowed: {allowed}")


def test_an_alias_means_the_model_we_have() -> None:
    assert chooser().choose("DET_NAME", "scrfd_500m_bnkps", "detection") == "det_500m"


@pytest.mark.parametrize(
    ("variable", "name", "task", "nearest"),
    [
        ("DET_NAME", "yolov5l-face", "detection", "scrfd_10g_bnkps"),
        ("REC_NAME", "adaface_ir101_webface12m", "recognition", "glintr100"),
        ("REC_NAME", "arcface_r100_v1", "recognition", "glintr100"),
        ("MASK_DETECTOR", "mask_detector112", "mask", "mask_detector_seeta"),
        ("DET_NAME", "scrfd_10g_bnkp", "detection", "scrfd_10g_bnkps"),
    ],
)
def test_a_model_of_others_is_refused_with_the_nearest(variable: str, name: str, task: str, nearest: str) -> None:
    with pytest.raises(RegistryError, match=rf"^{variable}='{name}' .* The nearest that serves: {variable}={nearest}$"):
        chooser().choose(variable, name, task)
