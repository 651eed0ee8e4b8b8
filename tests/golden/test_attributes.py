"""Gender, masks and liveness on real faces: one pass over all portraits, and a few pictures besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from jetface.domain import Face
from tests.support.portraits import middle_face

WOMEN = (
    "Angela_Merkel", "Cameron_Diaz", "Celine_Dion", "Christina_Aguilera", "Gwyneth_Paltrow", "Halle_Berry",
    "Hillary_Clinton", "Jennifer_Connelly", "Jennifer_Lopez", "Laura_Bush", "Martha_Stewart", "Meryl_Streep",
    "Monica_Bellucci", "Naomi_Watts", "Oprah_Winfrey", "Queen_Elizabeth_II", "Reese_Witherspoon",
    "Sarah_Jessica_Parker", "Serena_Williams", "Zhang_Ziyi",
)  # fmt: skip
MEN = (
    "Andre_Agassi", "Arnold_Schwarzenegger", "Ben_Affleck", "Bill_Clinton", "Fidel_Castro", "George_Clooney",
    "Gerhard_Schroeder", "Harrison_Ford", "Hu_Jintao", "Jackie_Chan", "John_McCain", "Justin_Timberlake",
    "Kevin_Costner", "Michael_Caine", "Mike_Tyson", "Muhammad_Ali", "Pierce_Brosnan", "Richard_Gere", "Tom_Hanks",
    "Vladimir_Putin",
)  # fmt: skip
"""Forty people known well enough that their names tell, four portraits each."""

GENDER_RIGHT = 0.93
"""Least share of the 160 portraits whose gender is told right."""

MASK_FALSE = 0.01
"""Greatest share of the 800 portraits, none of them masked, on which a mask is seen."""


@pytest.fixture(scope="module")
def service(serve: Callable[..., Any]) -> Iterator[Any]:
    """All attribute models, no recognizer."""
    with serve(
        rec_model="none",
        ga_model="genderage_v1",
        mask_model="mask_detector_seeta",
        liveness_model=("fasnet_2.7", "fasnet_4.0"),
    ) as started:
        yield started


@pytest.fixture(scope="module")
def portraits(service: Any, shared_faces: Path) -> Mapping[str, list[Face]]:
    """The faces of each person."""
    paths = sorted(shared_faces.glob("*/*"))
    results = service.extract(
        [path.read_bytes() for path in paths],
        with_embedding=False,
        attributes=frozenset({"gender_age", "mask", "liveness"}),
        with_quality=True,
    )
    people: dict[str, list[Face]] = {}
    for path, result in zip(paths, results, strict=True):
        face = middle_face(result.faces, result.image_hw)
        assert face is not None, path
        people.setdefault(path.parent.name, []).append(face)
    return people


def test_gender_is_told_right(portraits: Mapping[str, list[Face]]) -> None:
    right = [
        face.attributes["gender_age"]["gender"] == gender
        for names, gender in ((WOMEN, 0), (MEN, 1))
        for name in names
        for face in portraits[name]
    ]
    assert len(right) == 160
    assert sum(right) / len(right) >= GENDER_RIGHT


def test_ages_are_those_of_grown_people(portraits: Mapping[str, list[Face]]) -> None:
    """How far they are off is not measured: nobody says how old these people were."""
    ages = [face.attributes["gender_age"]["age"] for faces in portraits.values() for face in faces]
    assert len(ages) == 800
    assert 0 < min(ages) < max(ages) < 100
    assert 25 < sum(ages) / len(ages) < 55


def test_gender_and_age_differ_between_portraits_of_one_person(portraits: Mapping[str, list[Face]]) -> None:
    """Measured: 12 of 200 people have a portrait told otherwise than their others; ages differ by 12 years, median."""
    told = [[face.attributes["gender_age"] for face in faces] for faces in portraits.values()]
    num_mixed = sum(len({each["gender"] for each in person}) > 1 for person in told)
    spans = sorted(max(each["age"] for each in person) - min(each["age"] for each in person) for person in told)
    assert len(spans) == 200
    assert 6 <= num_mixed <= 18
    assert 8 <= spans[100] <= 16


def test_most_portraits_are_live_and_fewer_of_turned_heads(portraits: Mapping[str, list[Face]]) -> None:
    """Measured: 743 of 800; 95.3 % of those who look ahead, 85.0 % of those turned by 30 degrees and more."""
    faces = [face for person in portraits.values() for face in person]
    ahead = [face for face in faces if face.quality and abs(face.quality.pose.yaw) < 10]
    turned = [face for face in faces if face.quality and abs(face.quality.pose.yaw) >= 30]
    assert share_live(faces) == pytest.approx(0.929, abs=0.02)
    assert share_live(ahead) == pytest.approx(0.953, abs=0.02)
    assert share_live(turned) == pytest.approx(0.850, abs=0.04)


def share_live(faces: list[Face]) -> float:
    return sum(bool(face.attributes["liveness"]["is_live"]) for face in faces) / len(faces)


def test_bare_faces_wear_no_mask(portraits: Mapping[str, list[Face]]) -> None:
    masked = [face.attributes["mask"]["mask"] for faces in portraits.values() for face in faces]
    assert len(masked) == 800
    assert sum(masked) / len(masked) <= MASK_FALSE


def test_portraits_are_of_good_quality(portraits: Mapping[str, list[Face]]) -> None:
    """So `min_quality` 0.3 loses few of them."""
    scores = [face.quality.score for faces in portraits.values() for face in faces if face.quality]
    assert len(scores) == 800
    assert sum(score >= 0.3 for score in scores) / len(scores) >= 0.99


@pytest.mark.parametrize("name", ["ifrest_mask", "inspireface_mask2"])
def test_masks_are_found(service: Any, shared_images: Path, name: str) -> None:
    (result,) = service.extract(
        [(shared_images / f"{name}.jpg").read_bytes()],
        with_embedding=False,
        attributes=frozenset({"mask"}),
        limit_faces=1,
    )
    (face,) = result.faces
    assert face.attributes["mask"]["mask"]


def test_liveness_smoke(service: Any, shared_images: Path) -> None:
    """Smoke-tested only, accuracy is not measured: one recaptured picture, two of people before the camera."""
    names = ("inspireface_rgb_fake", "ifrest_Stallone", "inspireface_kun")
    results = service.extract(
        [(shared_images / f"{name}.jpg").read_bytes() for name in names],
        with_embedding=False,
        attributes=frozenset({"liveness"}),
        limit_faces=1,
    )
    assert [result.faces[0].attributes["liveness"]["is_live"] for result in results] == [False, True, True]
