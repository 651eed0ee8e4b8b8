"""Plans kept between starts: the key that decides whether one fits, its sidecar, its checksum, its state."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import structlog
from pydantic import TypeAdapter, ValidationError

from jetface.atomic import remove_parts, whole_file
from jetface.runtimes.engine_kit import EngineRequest, Profile

PLAN_SUFFIX = ".plan"

_KEY_DIGITS = 16
"""Hexadecimal digits of the key in a file name: 64 bits tell the few plans of a folder apart."""

_KIT_PREFIX = "kit."


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """A plan fits where every part of its key is equal."""

    model: str
    """Registry name."""
    precision: str
    parts: Mapping[str, str]
    """What the plan was made of and for, by name; those of the toolkit begin with `kit.`."""

    @property
    def file_name(self) -> str:
        """Name of the plan's file: model, precision, and a digest of all parts."""
        text = json.dumps([self.model, self.precision, sorted(self.parts.items())])
        return f"{self.model}-{self.precision}-{hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]}{PLAN_SUFFIX}"

    @property
    def facts(self) -> Mapping[str, str]:
        """What the toolkit said of itself and the device."""
        return {name[len(_KIT_PREFIX) :]: value for name, value in self.parts.items() if name.startswith(_KIT_PREFIX)}


def engine_key(request: EngineRequest, *, graph_sha256: str, facts: Mapping[str, str]) -> EngineKey:
    """Return the key of the plan that a request makes.

    The timing cache is no part of it: it makes a build faster and its result no other.

    Args:
        request: What is to be built.
        graph_sha256: Of the prepared ONNX file that the request names.
        facts: What the toolkit says of itself and the device.
    """
    parts = {
        "graph": graph_sha256,
        "precision": request.precision,
        "profiles": "; ".join(map(_words, request.profiles)),
        "workspace_bytes": str(request.workspace_bytes),
        "optimization_level": str(request.optimization_level),
        "dla_core": str(request.dla_core),
        **{f"{_KIT_PREFIX}{name}": value for name, value in facts.items()},
    }
    return EngineKey(model=request.model, precision=request.precision, parts=parts)


def misfit(key: EngineKey, facts: Mapping[str, str]) -> str | None:
    """Say why a plan does not fit a toolkit and device, in one clause; None where it does.

    Args:
        key: The plan's.
        facts: What the toolkit here says.
    """
    for name in sorted({*key.facts, *facts}):
        built_for, here = key.facts.get(name), facts.get(name)
        if built_for != here:
            return f"built for {name} {built_for or 'unknown'}, here it is {here or 'unknown'}"
    return None


def _words(profile: Profile) -> str:
    return "..".join("x".join(map(str, shape)) for shape in (profile.least, profile.usual, profile.most))


EngineState = Literal["absent", "building", "checking", "serving", "rejected"]

ENGINE_STATES: tuple[EngineState, ...] = get_args(EngineState)

_LEAST_FRACTION = 0.05
"""Before that much is done, what is left cannot be told from the time it took."""

_LOG_EVERY_S = 10.0
_LOG_EVERY_FRACTION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What an operator can know of an engine now."""

    state: EngineState = "absent"
    progress: float | None = None
    """Of the build, 0 to 1; None unless it is built now."""
    eta_s: float | None = None
    """Seconds the build may still take; None where that cannot be told."""
    reason: str | None = None
    """Why it was rejected, or what it waits for, one sentence."""


def remaining_s(fraction: float, elapsed_s: float) -> float | None:
    """Estimate how long a build still takes, seconds; None while it is too early to tell.

    Args:
        fraction: Done, 0 to 1.
        elapsed_s: What that took.
    """
    return None if fraction < _LEAST_FRACTION else elapsed_s * (1 - fraction) / fraction


class Announcer:
    """Decides which steps of a build are worth a line in the log: one a tenth of the way, at most one in 10 seconds."""

    def __init__(self) -> None:
        self._told_fraction = -1.0
        self._told_at_s = float("-inf")

    def is_due(self, fraction: float, elapsed_s: float) -> bool:
        """Whether to tell of this step; if so, it counts as told."""
        is_far = fraction >= self._told_fraction + _LOG_EVERY_FRACTION
        if not is_far or elapsed_s < self._told_at_s + _LOG_EVERY_S:
            return False
        self._told_fraction, self._told_at_s = fraction, elapsed_s
        return True


_log = structlog.get_logger(__name__)

_SIDECAR_SUFFIX = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """What a sidecar says of its plan."""

    key: EngineKey
    plan_sha256: str
    plan_bytes: int
    verdict: str
    """What the check found, one sentence; a plan without a passed check is never kept."""
    notes: tuple[str, ...] = ()
    """What the toolkit had to say."""
    build_s: float
    built_at: float
    """Seconds since 1970."""


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


def record_of(key: EngineKey, plan: bytes, *, verdict: str, notes: tuple[str, ...], build_s: float) -> PlanRecord:
    """Return the record of a plan that was built just now."""
    return PlanRecord(
        key=key,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        verdict=verdict,
        notes=notes,
        build_s=round(build_s, 3),
        built_at=round(time.time(), 3),
    )


@dataclass(frozen=True, slots=True)
class PlanFolder:
    """A folder of plans. Safe for several processes: a file appears whole, the sidecar after the plan."""

    folder: Path | None
    """None keeps nothing."""

    def find(self, key: EngineKey) -> KeptPlan | None:
        """Return the plan of this key; None when there is none that can be trusted, whatever is wrong with it."""
        if self.folder is None:
            return None
        path = self.folder / key.file_name
        record = _read_record(path)
        if record is None or record.key != key:
            if path.is_file():
                _log.warning("plan has no sidecar that fits and is built anew", model=key.model, file=path.name)
            return None
        try:
            plan = path.read_bytes()
        except OSError as cause:
            _log.warning("plan cannot be read and is built anew", model=key.model, reason=cause.strerror)
            return None
        if hashlib.sha256(plan).hexdigest() != record.plan_sha256:
            _log.warning("plan is damaged and is built anew", model=key.model, file=path.name)
            return None
        return KeptPlan(plan, record)

    def keep(self, plan: bytes, record: PlanRecord) -> bool:
        """Keep a plan; False when that cannot be done: a full disk and a read-only folder are no failure.

        The caller holds the folder's lock, where one could be had.
        """
        if self.folder is None:
            return False
        path = self.folder / record.key.file_name
        sidecar = _sidecar(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for target in (path, sidecar):
                remove_parts(target)
            # A sidecar that is here is that of a plan found damaged: it must not speak for the new one half way.
            sidecar.unlink(missing_ok=True)
            for target, content in ((path, plan), (sidecar, _RECORD.dump_json(record, indent=2))):
                with whole_file(target) as file:
                    file.write(content)
        except OSError as cause:
            _log.warning("engine is not kept: it will be built again at the next start",
                         model=record.key.model, folder=str(self.folder), reason=cause.strerror)  # fmt: skip
            return False
        return True

    def has_any(self, model: str) -> bool:
        """Whether a plan of this model is kept, be it for this machine or not."""
        return any(entry.path.name.startswith(f"{model}-") for entry in self._entries())

    def entries(self) -> list[PlanEntry]:
        """List the plans by name; a folder that cannot be read has none."""
        return sorted(self._entries(), key=lambda entry: entry.path.name)

    def remove(self, entry: PlanEntry) -> None:
        """Remove a plan and its sidecar.

        Raises:
            OSError: It cannot be removed.
        """
        _sidecar(entry.path).unlink(missing_ok=True)
        entry.path.unlink(missing_ok=True)

    def discard(self, key: EngineKey) -> None:
        """Remove the plan of a key, which proved to be of no use; no failure where it cannot be removed."""
        if self.folder is None:
            return
        path = self.folder / key.file_name
        try:
            self.remove(PlanEntry(path, None, 0, 0.0))
        except OSError as cause:
            _log.warning("plan cannot be removed", model=key.model, file=path.name, reason=cause.strerror)

    def _entries(self) -> Iterator[PlanEntry]:
        try:
            paths = list(self.folder.glob(f"*{PLAN_SUFFIX}")) if self.folder else []
        except OSError:
            return
        for path in paths:
            try:
                facts = path.stat()
            except OSError:
                continue  # another process has just removed it
            yield PlanEntry(path, _read_record(path), facts.st_size, facts.st_mtime)


def _sidecar(path: Path) -> Path:
    return path.with_suffix(_SIDECAR_SUFFIX)


def _read_record(path: Path) -> PlanRecord | None:
    try:
        return _RECORD.validate_python(json.loads(_sidecar(path).read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as cause:
        _log.warning("sidecar of a plan cannot be read", file=path.name, reason=type(cause).__name__)
        return None
