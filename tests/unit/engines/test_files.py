"""Plans kept between starts: found again when they fit and are whole, and never a failure when they are not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jetface.engines.plan import KeptPlan, PlanFolder, PlanRecord
from jetface.runtimes.engine_kit import EngineRecipe, Profile

PROFILE = Profile(least=(1, 3, 8, 8), usual=(1, 3, 8, 8), most=(1, 3, 8, 8))
RECIPE = EngineRecipe(
    model="tiny", graph_sha256="abc", precision="fp16", profiles=(PROFILE,), toolkit={"version": "10.3.0"}
)
PLAN = bytes(range(256)) * 8


def keep(folder: PlanFolder, plan: bytes = PLAN, recipe: EngineRecipe = RECIPE) -> bool:
    return folder.keep(plan, PlanRecord.of(recipe, plan, verdict="good", notes=("a note",), build_s=1.5))


def content(found: KeptPlan | None) -> bytes | None:
    return None if found is None else found.plan


@pytest.fixture
def folder(tmp_path: Path) -> PlanFolder:
    return PlanFolder(tmp_path / "engines")


def test_a_plan_is_found_again_with_what_is_known_of_it(folder: PlanFolder) -> None:
    assert folder.find(RECIPE) is None
    assert keep(folder)
    found = folder.find(RECIPE)
    assert found is not None
    assert found.plan == PLAN
    assert found.record.recipe == RECIPE
    assert (found.record.verdict, found.record.notes, found.record.build_s) == ("good", ("a note",), 1.5)
    (entry,) = folder.entries()
    assert entry.record == found.record
    assert entry.size_bytes == len(PLAN)


def test_no_folder_keeps_nothing() -> None:
    nowhere = PlanFolder(None)
    assert not keep(nowhere)
    assert nowhere.find(RECIPE) is None
    assert nowhere.entries() == []
    nowhere.discard(RECIPE)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, len(PLAN) - 1) | st.none(),
    flipped=st.integers(0, len(PLAN) - 1) | st.none(),
    is_sidecar=st.booleans(),
)
def test_a_file_that_was_damaged_anywhere_is_not_used(
    folder: PlanFolder, cut: int | None, flipped: int | None, *, is_sidecar: bool
) -> None:
    keep(folder)
    path = next(path for path in (folder.folder or Path()).iterdir() if (path.suffix == ".json") == is_sidecar)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    if flipped is not None:
        damaged[flipped % len(damaged)] ^= 1
    if cut is not None:
        del damaged[cut % len(damaged) :]
    path.write_bytes(damaged)
    found = folder.find(RECIPE)
    if damaged == whole:
        assert content(found) == PLAN
    elif is_sidecar:
        # A digit of the build's seconds may have changed: never the plan, and never what it is for.
        assert found is None or (found.plan == PLAN and found.record.recipe == RECIPE)
    else:
        assert found is None
    keep(folder)
    assert content(folder.find(RECIPE)) == PLAN


@pytest.mark.parametrize("lost", [".plan", ".json"])
def test_half_of_a_pair_is_not_used(folder: PlanFolder, lost: str) -> None:
    keep(folder)
    (folder.folder or Path()).joinpath(RECIPE.file_name).with_suffix(lost).unlink()
    assert folder.find(RECIPE) is None


def test_a_plan_of_another_key_under_this_name_is_not_used(folder: PlanFolder) -> None:
    other = replace(RECIPE, toolkit={"version": "11.0.0"})
    keep(folder, recipe=other)
    for suffix in (".plan", ".json"):
        path = (folder.folder or Path()) / other.file_name
        path.with_suffix(suffix).rename(path.with_name(RECIPE.file_name).with_suffix(suffix))
    assert folder.find(RECIPE) is None


def test_a_plan_that_cannot_be_read_is_not_used(folder: PlanFolder) -> None:
    keep(folder)
    path = (folder.folder or Path()) / RECIPE.file_name
    path.unlink()
    path.mkdir()
    assert folder.find(RECIPE) is None
    assert not keep(folder)


def test_what_killed_writers_left_is_removed_by_the_next_one(folder: PlanFolder) -> None:
    keep(folder)
    part = (folder.folder or Path()) / f".{RECIPE.file_name}.123.part"
    part.write_bytes(b"half a plan")
    keep(folder)
    assert not part.exists()


def test_a_plan_that_is_of_no_use_can_be_discarded(folder: PlanFolder) -> None:
    keep(folder)
    folder.discard(RECIPE)
    assert folder.entries() == []
    assert list((folder.folder or Path()).iterdir()) == []
    folder.discard(RECIPE)


def test_an_entry_without_a_sidecar_is_listed_as_unknown_and_can_be_removed(folder: PlanFolder) -> None:
    keep(folder)
    (folder.folder or Path()).joinpath(RECIPE.file_name).with_suffix(".json").unlink()
    (entry,) = folder.entries()
    assert entry.record is None
    folder.remove(entry)
    assert folder.entries() == []


@pytest.mark.parametrize("obstacle", ["file", "read-only"])
def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path, obstacle: str) -> None:
    path = tmp_path / "engines"
    if obstacle == "file":
        path.write_text("in the way")
    elif os.geteuid() == 0:
        # Root may write anywhere but below what the kernel itself forbids.
        path = Path("/proc/engines")
    else:
        path.mkdir(mode=0o500)
    folder = PlanFolder(path)
    assert not keep(folder)
    assert folder.find(RECIPE) is None
    assert folder.entries() == []
    folder.discard(RECIPE)
