"""What documents call unverified is a claim, and a claim is held against facts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.shared import REPOSITORY
from verifying.claims import Claim, judge, read_claims
from verifying.facts import STEPS

CLAIMS = read_claims()

DEFINITIONS = {("docs/status.md", "only the machine in question can tell")}
"""Lines that say what the word means."""

NOT_DOCUMENTS = ("tests/", "deploy/jetson/verifying/", "deploy/jetson/verify.sh")
"""Code that works with the word."""


def lines_that_say_it() -> Iterator[tuple[str, int, str]]:
    """Every line of ours that calls something unverified: file, number, the line and those beside it."""
    command = ["git", "grep", "--line-number", "--ignore-case", "-I", "unverified"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for hit in done.stdout.splitlines():
        file, number, line = hit.split(":", 2)
        if file.startswith(NOT_DOCUMENTS) or any(file == name and words in line for name, words in DEFINITIONS):
            continue
        yield file, int(number), line if line.startswith("|") else beside(file, int(number))


def beside(file: str, number: int) -> str:
    lines = REPOSITORY.joinpath(file).read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[max(0, number - 2) : number + 1])


class TestDocuments:
    def test_whatever_is_called_unverified_is_a_claim(self) -> None:
        """Who writes the word adds a claim to claims.toml, or a place to one of them."""
        orphans = [
            f"{file}:{number}"
            for file, number, text in lines_that_say_it()
            if not [p for claim in CLAIMS for p in claim.places if p.file == file and p.phrase in text]
        ]
        assert orphans == []

    def test_every_place_still_says_so(self) -> None:
        """What has been verified, and said so, loses its place."""
        said = [(file, text) for file, _, text in lines_that_say_it()]
        stale = [
            f"{claim.id}: {place.file}: {place.phrase}"
            for claim in CLAIMS
            for place in claim.places
            if not [text for file, text in said if file == place.file and place.phrase in text]
        ]
        assert stale == []

    def test_facts_are_those_of_steps(self) -> None:
        assert {claim.fact.split(".")[0] for claim in CLAIMS if claim.fact} <= set(STEPS)

    def test_commands_name_programs_that_are_here(self) -> None:
        for claim in CLAIMS:
            for word in (claim.by or "").split():
                if word.startswith("tests."):
                    assert REPOSITORY.joinpath(*word.split(".")).with_suffix(".py").is_file()
                if word.startswith("deploy/"):
                    assert (REPOSITORY / word).is_file()


class TestFile:
    def test_a_claim_named_twice_is_refused(self, tmp_path: Path) -> None:
        claim = '[[claim]]\nid = "a"\ntext = "b"\nby = "c"\n'
        (tmp_path / "claims.toml").write_text(claim * 2)
        with pytest.raises(ValueError, match="named twice: a"):
            read_claims(tmp_path / "claims.toml")

    @pytest.mark.parametrize(
        "more",
        [{}, {"fact": "a.b", "by": "c"}, {"fact": "a.b", "below": 1, "at_least": 2}, {"fact": "a.b", "nonsense": 1}],
        ids=["no way", "two ways", "two limits", "unknown"],
    )
    def test_a_claim_that_cannot_be_judged_is_refused(self, more: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Claim.model_validate({"id": "a", "text": "b", **more})


def claim(**fields: Any) -> Claim:
    return Claim.model_validate({"id": "a", "text": "b", "fact": "speed.one.ms", **fields})


def facts(value: Any, **steps: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {"speed": {"one": {"ms": value}}, **steps}


JETSON = {"machine": {"jetson": {"module": "AGX Orin"}}}


class TestJudging:
    @pytest.mark.parametrize(
        ("limits", "value", "outcome", "told"),
        [
            ({"below": 12, "unit": "ms"}, 11.94, "pass", "11.94 ms"),
            ({"below": 12, "unit": "ms"}, 12, "fail", "12 ms"),
            ({"at_least": 6}, 6, "pass", "6"),
            ({"at_least": 6}, 5.5, "fail", "5.5"),
            ({"equals": True}, True, "pass", "yes"),
            ({"equals": True}, False, "fail", "no"),
            ({"equals": 0}, 0, "pass", "0"),
            ({"equals": 0}, 3, "fail", "3"),
            ({"equals": "integrated"}, "unreachable", "fail", "unreachable"),
            ({"unit": "GB", "scale": 1e-9}, 5.4e9, "figure", "5.4 GB"),
            ({}, "words", "figure", "words"),
        ],
    )
    def test_a_value_is_held_to_its_limit(self, limits: dict[str, Any], value: Any, outcome: str, told: str) -> None:
        row = judge(claim(**limits), facts(value))
        assert (row.outcome, row.told) == (outcome, told)

    @given(value=st.floats(0, 1e9), limit=st.floats(0, 1e9))
    def test_below_and_at_least_are_opposites(self, value: float, limit: float) -> None:
        outcomes = {judge(claim(**{name: limit}), facts(value)).outcome for name in ("below", "at_least")}
        assert outcomes == {"pass", "fail"}

    def test_another_machines_claim_names_its_command(self) -> None:
        row = judge(Claim(id="a", text="b", by="python -m x"), facts(1))
        assert (row.outcome, row.told) == ("not run", "by `python -m x`")

    def test_a_jetsons_target_is_a_figure_elsewhere(self) -> None:
        target = claim(below=12, target_of="jetson")
        assert judge(target, facts(99)).outcome == "figure"
        assert judge(target, facts(99, doctor=JETSON)).outcome == "fail"
        assert judge(target, facts(99, start={"device": {"module": "AGX Orin"}})).outcome == "fail"

    def test_what_a_machine_lacks_is_not_asked(self) -> None:
        of_jetson, of_container = claim(needs="jetson"), claim(needs="container")
        assert judge(of_jetson, facts(1)).told == "this is no Jetson"
        assert judge(of_jetson, facts(1, doctor=JETSON)).outcome == "figure"
        assert judge(of_container, facts(1, run={"mode": "checkout"})).told == "no container was started"
        assert judge(of_container, facts(1, run={"mode": "docker"})).outcome == "figure"

    def test_a_value_that_is_not_there_says_what_that_means(self) -> None:
        assert judge(claim(absent="no sensor"), facts(None)).told == "no sensor"
        assert judge(claim(), {"speed": {"one": None}}).told == "speed.one.ms is not told here"
        assert judge(claim(), {}).told == "the step speed was left out"

    def test_a_step_that_breaks_down_fails_what_any_machine_can_do(self) -> None:
        """While engines and golden answers need what not every machine has."""
        broken = {"not_run": "it broke", "failed": True}
        assert judge(claim(), {"speed": broken}).outcome == "fail"
        assert judge(claim(fact="engines.passed"), {"engines": broken}).outcome == "not run"
        assert judge(claim(), {"speed": {"not_run": "left out"}}).outcome == "not run"
