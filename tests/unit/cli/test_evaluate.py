"""`jetface evaluate`: figures of recognizers on one's own pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from jetface.cli.evaluate import ModelFigures, Pairs, count_pairs
from jetface.cli.main import main
from tests.support.pictures import read_image


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", *arguments])


def people_of(num_people: int, num_pictures: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of made-up people: a direction each, and noise about it."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(num_people), num_pictures)
    vectors = rng.normal(0, 1, (num_people, 64))[people] + noise * rng.normal(0, 1, (len(people), 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), people


def figures_of(pairs: Pairs, match_threshold: float | None = None) -> dict[str, object]:
    figures = ModelFigures(
        name="m", pairs=pairs, missed=(), unreadable=(), num_crowded=0, seconds=2.0, num_pictures=10,
        match_threshold=match_threshold,
    )  # fmt: skip
    return figures.as_dict()


def test_every_pair_is_counted_once_and_by_its_similarity() -> None:
    """More pictures than are compared at a time; checked against every pair one by one."""
    vectors, people = people_of(150, 4, 1.2)
    pairs = count_pairs(vectors, people)
    rows, columns = np.triu_indices(len(people), 1)
    similarity = np.einsum("ij,ij->i", vectors[rows].astype(np.float64), vectors[columns].astype(np.float64))
    is_same = people[rows] == people[columns]
    assert (pairs.same.sum(), pairs.other.sum()) == (is_same.sum(), (~is_same).sum())
    for threshold in (-0.2, 0.1, 0.35):
        edge = round((threshold + 1) / 2 * 20_000)
        assert pairs.share(pairs.same)[edge] == pytest.approx((similarity[is_same] >= threshold).mean(), abs=2e-3)
        assert pairs.share(pairs.other)[edge] == pytest.approx((similarity[~is_same] >= threshold).mean(), abs=2e-5)
    full = vectors @ vectors.T
    np.fill_diagonal(full, -np.inf)
    assert (pairs.num_probes, pairs.num_hits) == (600, (people[full.argmax(axis=1)] == people).sum())


def test_a_suggested_threshold_keeps_to_its_rate_and_the_next_lower_does_not() -> None:
    pairs = count_pairs(*people_of(150, 4, 1.0))
    found = figures_of(pairs, match_threshold=0.3)
    false = pairs.share(pairs.other)
    suggested: Any = found["suggested"]
    at_1e_3, at_1e_4, at_1e_5 = suggested
    for at in (at_1e_3, at_1e_4):
        edge = round((at["threshold"] + 1) / 2 * 20_000)
        assert false[edge] <= at["false_match_rate"] < false[edge - 1]
        assert at["true_match_rate"] == pairs.share(pairs.same)[edge]
    assert at_1e_5 == {"false_match_rate": 1e-5, "threshold": None, "true_match_rate": None}
    assert found["at_match_threshold"]["false_match_rate"] == false[13_000]  # type: ignore[index]  # JSON


def test_people_who_are_far_apart_are_never_confused() -> None:
    found = figures_of(count_pairs(*people_of(10, 3, 0.01)))
    assert (found["rank_1"], found["equal_error_rate"], found["at_match_threshold"]) == (1.0, 0.0, None)


def test_who_has_one_picture_is_looked_for_by_nobody_and_confused_by_all() -> None:
    vectors, people = people_of(3, 2, 0.1)
    pairs = count_pairs(vectors[:-1], people[:-1])
    assert (pairs.num_probes, pairs.same.sum(), pairs.other.sum()) == (4, 2, 8)


@pytest.fixture
def folder(tmp_path: Path, shared_faces: Path, shared_images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six people; a picture without a face, one that is none, and one of nobody."""
    root = tmp_path / "people"
    for person in sorted(shared_faces.iterdir())[:6]:
        shutil.copytree(person, root / person.name, copy_function=shutil.copyfile)
    first = min(root.iterdir())
    first.chmod(0o755)
    (first / "broken.jpg").write_bytes(b"no picture")
    blank = np.full((64, 64, 3), 127, np.uint8)
    (first / "blank.png").write_bytes(_png(blank))
    shutil.copyfile(shared_images / "t1.jpg", root / "nobody.jpg")
    (root / "film.mov").write_bytes(b"no picture")
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("DET_MODEL", "starter_det")
    monkeypatch.setenv("REC_MODEL", "starter_rec")
    return root


def _png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


def test_own_pictures_are_judged(folder: Path, tmp_path: Path) -> None:
    """As JSON and as a plot; what was missed or could not be read is named."""
    result = evaluate(str(folder), "--json", "--plot", str(tmp_path / "plot.png"), "--strict")
    assert result.exit_code == 1
    assert "skipped 1 file: 1 .mov" in result.stderr
    found = json.loads(result.stdout)
    assert (found["detector"], found["people"], found["pictures"], found["pictures_of_nobody"]) == (
        "starter_det", 6, 26, 1,
    )  # fmt: skip
    assert found["skipped"] == {".mov": 1}
    (model,) = found["models"]
    first = min(path.name for path in folder.iterdir())
    assert model["faces_missed"] == [f"{first}/blank.png"]
    assert [each["picture"] for each in model["unreadable"]] == [f"{first}/broken.jpg"]
    assert (model["model"], model["pairs_of_one_person"], model["pairs_of_two_people"]) == ("starter_rec", 36, 240)
    assert model["rank_1"] > 0.9
    assert model["pictures_per_s"] > 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_portraits_that_stand_on_their_heads_are_turned_where_that_is_asked(
    folder: Path, shared_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--rotations auto` they are told apart as they are upright."""
    monkeypatch.setenv("MODEL_MIRROR", str(shared_models))
    monkeypatch.setenv("DET_MODEL", "det_500m")
    for path in sorted(folder.glob("*/1.jpg")):
        path.write_bytes(_png(np.ascontiguousarray(read_image(path)[::-1, ::-1])))
    result = evaluate(str(folder), "--json", "--rotations", "auto")
    assert result.exit_code == 0, result.stderr
    (model,) = json.loads(result.stdout)["models"]
    assert [Path(missed).name for missed in model["faces_missed"]] == ["blank.png"]
    assert model["rank_1"] > 0.9


def test_people_read_a_table(folder: Path, shared_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each model that is named."""
    monkeypatch.setenv("MODEL_MIRROR", str(shared_models))
    result = evaluate(str(folder), "--models", "starter_rec, mobilefacenet128")
    assert result.exit_code == 0, result.stderr
    assert [line.split()[1] for line in result.stdout.splitlines() if line.startswith("| ")] == [
        "model", "starter_rec", "mobilefacenet128", "match_threshold", "starter_rec", "mobilefacenet128",
    ]  # fmt: skip
    assert "found no face in" in result.stdout
    assert "0.42: TAR" in result.stdout


@pytest.mark.parametrize("names", ["nope", "starter_det", "none", "starter_rec,nope"])
def test_what_is_no_recognizer_is_told_before_anything_is_run(folder: Path, names: str) -> None:
    result = evaluate(str(folder), "--models", names)
    assert result.exit_code == 2
    assert "--models" in result.stderr


def test_a_folder_without_people_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", min(path for path in folder.iterdir() if path.is_dir())):
        result = evaluate(str(place))
        assert result.exit_code == 1
        assert "a folder for each person" in result.stderr
