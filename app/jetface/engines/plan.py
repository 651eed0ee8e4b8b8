"""Plans kept between starts, each with a sidecar of its recipe, its checksum and what its check found."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog
from pydantic import TypeAdapter, ValidationError

from jetface.atomic import remove_parts, sidecar_of, write_with_sidecar
from jetface.runtimes.engine_kit import PLAN_SUFFIX, EngineRecipe

_log = structlog.get_logger(__name__)

EngineState = Literal["absent", "building", "checking", "serving", "rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What an operator can know of an engine now."""

    state: EngineState = "absent"
    phase: str | None = None
    """What a build is doing, in the toolkit's words; None unless it is built now."""
    elapsed_s: float | None = None
    """Seconds since the build began, when the phase did; None unless it is built now."""
    reason: str | None = None
    """Why it was rejected, one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """What a sidecar says of its plan."""

    recipe: EngineRecipe
    plan_sha256: str
    plan_bytes: int
    verdict: str
    """What the check found, one sentence; a plan without a passed check is never kept."""
    notes: tuple[str, ...] = ()
    """What the toolkit had to say."""
    build_s: float
    built_at: float
    """Seconds since 1970."""

    @classmethod
    def of(
        cls, recipe: EngineRecipe, plan: bytes, *, verdict: str, notes: tuple[str, ...] = (), build_s: float
    ) -> PlanRecord:
        """Return the record of a plan that was built just now."""
        return cls(
            recipe=recipe, plan_sha256=hashlib.sha256(plan).hexdigest(), plan_bytes=len(plan), verdict=verdict,
            notes=notes, build_s=round(build_s, 3), built_at=round(time.time(), 3),
        )  # fmt: skip


_RECORD: TypeAdapter[PlanRecord] = TypeAdapter(PlanRecord)


@dataclass(frozen=True, slots=True, eq=False)
class KeptPlan:
    """A plan whose checksum is right."""

    plan: bytes
    record: PlanRecord


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """A plan's file, and what is known of it without reading it whole."""

    path: Path
    record: PlanRecord | None
    """None where there is no readable sidecar: such a plan is of no use."""
    size_bytes: int
    changed_at: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class PlanFolder:
    """A folder of plans. Safe for several processes: a file appears whole, the sidecar after the plan."""

    folder: Path | None
    """None keeps nothing."""

    def find(self, recipe: EngineRecipe) -> KeptPlan | None:
        """Return the plan of this recipe; None when there is none that can be trusted, whatever is wrong with it."""
        if self.folder is None:
            return None
        path = self.folder / recipe.file_name
        record = _read_record(path)
        if record is None or record.recipe != recipe:
            if path.is_file():
                _log.warning("plan has no sidecar that fits and is built anew", model=recipe.model, file=path.name)
            return None
        try:
            plan = path.read_bytes()
        except OSError as cause:
            _log.warning("plan cannot be read and is built anew", model=recipe.model, reason=cause.strerror)
            return None
        if hashlib.sha256(plan).hexdigest() != record.plan_sha256:
            _log.warning("plan is damaged and is built anew", model=recipe.model, file=path.name)
            return None
        return KeptPlan(plan, record)

    def keep(self, plan: bytes, record: PlanRecord) -> bool:
        """Keep a plan; False when that cannot be done: a full disk and a read-only folder are no failure.

        The caller holds the folder's lock, where one could be had.
        """
        if self.folder is None:
            return False
        path = self.folder / record.recipe.file_name
        sidecar = sidecar_of(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for target in (path, sidecar):
                remove_parts(target)
            # A sidecar that is here is that of a plan found damaged: it must not speak for the new one half way.
            sidecar.unlink(missing_ok=True)
            write_with_sidecar(path, plan, _RECORD.dump_json(record, indent=2))
        except OSError as cause:
            _log.warning("engine is not kept: it will be built again at the next start",
                         model=record.recipe.model, folder=str(self.folder), reason=cause.strerror)  # fmt: skip
            return False
        return True

    def has_any(self, model: str) -> bool:
        """Whether a plan of this model is kept, be it for this machine or not."""
        return any(entry.path.name.startswith(f"{model}-") for entry in self.entries())

    def entries(self) -> list[PlanEntry]:
        """List the plans by name; a folder that cannot be read has none."""
        try:
            paths = sorted(self.folder.glob(f"*{PLAN_SUFFIX}")) if self.folder else []
        except OSError:
            return []
        return list(_entries(paths))

    def remove(self, entry: PlanEntry) -> None:
        """Remove a plan and its sidecar.

        Raises:
            OSError: It cannot be removed.
        """
        _remove(entry.path)

    def discard(self, recipe: EngineRecipe) -> None:
        """Remove the plan of a recipe, which proved to be of no use; no failure where it cannot be removed."""
        if self.folder is None:
            return
        path = self.folder / recipe.file_name
        try:
            _remove(path)
        except OSError as cause:
            _log.warning("plan cannot be removed", model=recipe.model, file=path.name, reason=cause.strerror)


def _entries(paths: list[Path]) -> Iterator[PlanEntry]:
    for path in paths:
        try:
            facts = path.stat()
        except OSError:
            continue  # another process has just removed it
        yield PlanEntry(path, _read_record(path), facts.st_size, facts.st_mtime)


def _remove(path: Path) -> None:
    sidecar_of(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _read_record(path: Path) -> PlanRecord | None:
    try:
        return _RECORD.validate_json(sidecar_of(path).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as cause:
        _log.warning("sidecar of a plan cannot be read", file=path.name, reason=type(cause).__name__)
        return None
