"""What our documents say and nobody has verified yet, as data, and how each is held against facts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CLAIMS_FILE = Path(__file__).with_name("claims.toml")

Outcome = Literal["pass", "fail", "figure", "not run"]
Facts = Mapping[str, Mapping[str, Any]]
"""What each step found, by its name; a step that was not run has `not_run`: why, and `failed` where it was tried."""

_MUST_RUN = frozenset({"start", "speed", "soak", "drain", "stop", "restart"})
"""Steps that any machine can do: where one breaks down, its claims fail."""


class Place(BaseModel):
    """Where a document says something."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    phrase: str
    """Of the line that says `unverified`, or a neighbour of it."""


class Claim(BaseModel):
    """One sentence that a machine can prove or disprove."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    text: str
    places: tuple[Place, ...] = ()
    fact: str | None = None
    """Step and names within what it found, dots between."""
    unit: str = ""
    scale: float = 1.0
    """What the fact is multiplied by before it is shown and judged."""
    below: float | None = None
    at_least: float | None = None
    equals: bool | int | str | None = None
    needs: Literal["jetson", "container"] | None = None
    """Elsewhere it is not asked."""
    target_of: Literal["jetson"] | None = None
    """Whose limit it is; elsewhere the value is a figure."""
    absent: str = ""
    """What it means when the fact is not among those found."""
    by: str | None = None
    """A command that verifies it, where `verify.sh` does not."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.fact is None) == (self.by is None):
            raise ValueError(f"{self.id}: either a fact of ours or a command of somebody's")
        if sum(limit is not None for limit in (self.below, self.at_least, self.equals)) > 1:
            raise ValueError(f"{self.id}: more than one limit")
        return self


class Row(BaseModel):
    """What became of a claim."""

    model_config = ConfigDict(frozen=True)

    claim: Claim
    outcome: Outcome
    told: str
    """The figure, what is wrong, or why it was not run."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    claim: tuple[Claim, ...]


def read_claims(path: Path = CLAIMS_FILE) -> Sequence[Claim]:
    """Return the claims, in the order of the report.

    Raises:
        ValueError: The file is not as it should be, or names a claim twice.
    """
    claims = _Document.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).claim
    ids = [claim.id for claim in claims]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise ValueError(f"claims named twice: {', '.join(sorted(twice))}")
    return claims


def judge(claim: Claim, facts: Facts) -> Row:
    """Hold a claim against what was found."""
    if claim.fact is None:
        return Row(claim=claim, outcome="not run", told=f"by `{claim.by}`")
    if lacking := _lacks(claim, facts):
        return Row(claim=claim, outcome="not run", told=lacking)
    step, *names = claim.fact.split(".")
    found: Any = facts.get(step, {"not_run": f"the step {step} was left out"})
    if "not_run" in found:
        has_failed = step in _MUST_RUN and found.get("failed", False)
        return Row(claim=claim, outcome="fail" if has_failed else "not run", told=str(found["not_run"]))
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    if found is None:
        return Row(claim=claim, outcome="not run", told=claim.absent or f"{claim.fact} is not told here")
    row = _judge_value(claim, found)
    if claim.target_of == "jetson" and not _is_jetson(facts):
        return row.model_copy(update={"outcome": "figure"})
    return row


def _lacks(claim: Claim, facts: Facts) -> str | None:
    """Return what this machine would have to be; None when it is."""
    if claim.needs == "jetson" and not _is_jetson(facts):
        return "this is no Jetson"
    if claim.needs == "container" and facts.get("run", {}).get("mode") != "docker":
        return "no container was started"
    return None


def _is_jetson(facts: Facts) -> bool:
    machine, device = facts.get("doctor", {}).get("machine") or {}, facts.get("start", {}).get("device") or {}
    return bool(machine.get("jetson") or device.get("module"))


def _judge_value(claim: Claim, found: Any) -> Row:
    if isinstance(found, (bool, str)) or claim.equals is not None:
        if claim.equals is None:
            return Row(claim=claim, outcome="figure", told=str(found))
        return Row(claim=claim, outcome="pass" if found == claim.equals else "fail", told=_word(found))
    value = float(found) * claim.scale
    told = f"{value:.4g} {claim.unit}".strip()
    if claim.below is not None:
        return Row(claim=claim, outcome="pass" if value < claim.below else "fail", told=told)
    if claim.at_least is not None:
        return Row(claim=claim, outcome="pass" if value >= claim.at_least else "fail", told=told)
    return Row(claim=claim, outcome="figure", told=told)


def _word(found: Any) -> str:
    return ("yes" if found else "no") if isinstance(found, bool) else str(found)
