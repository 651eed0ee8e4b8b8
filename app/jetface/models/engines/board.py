"""Where each model's engine is, for health, metrics and log."""

from __future__ import annotations

import structlog

from jetface.backends.engines.files import PlanRecord
from jetface.backends.engines.job import Step
from jetface.backends.engines.states import Announcer, EngineStatus, remaining_s
from jetface.errors import ModelBuildingError, ServiceError
from jetface.metrics import Metrics

_log = structlog.get_logger(__name__)

_UNKNOWN_ETA_S = 30.0
"""What a refused caller is told while nothing can be said of a build yet."""


class EngineBoard:
    """The states of all engines of a service. Belongs to the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._statuses: dict[str, EngineStatus] = {}

    def status(self, name: str) -> EngineStatus:
        """Return where a model's engine is."""
        return self._statuses.get(name, EngineStatus())

    def enter(self, name: str, status: EngineStatus) -> None:
        """Note a new state."""
        self._statuses[name] = status
        self._metrics.set_engine(name, status.state, status.progress)

    def note_step(self, name: str, step: Step, announcer: Announcer, elapsed_s: float) -> None:
        """Note how far a build is; tell the log now and then. A step that comes after the end is dropped."""
        if self.status(name).state not in {"building", "checking"}:
            return
        waits_for = step.phase if step.state == "building" and not step.fraction else None
        eta_s = remaining_s(step.fraction, elapsed_s)
        self.enter(name, EngineStatus(state=step.state, progress=step.fraction, eta_s=eta_s, reason=waits_for))
        if announcer.is_due(step.fraction, elapsed_s):
            _log.info(f"{step.state} {100 * step.fraction:.0f} %, {elapsed_s:.0f} s", model=name, phase=step.phase)

    def note_built(self, name: str, record: PlanRecord, took_s: float) -> None:
        """Note that an engine was built and passed its check."""
        self._metrics.engine_build_seconds.labels(name).set(took_s)
        _log.info("engine built", model=name, took_s=round(took_s, 1), check=record.verdict)
        for note in record.notes:
            _log.warning("note on the engine", model=name, note=note)

    def reject(self, name: str, reason: str, *, is_served: bool, cause: BaseException | None = None) -> None:
        """Note that there will be no engine until the next start.

        Args:
            name: The model.
            reason: Why, one sentence.
            is_served: Whether another backend answers instead.
            cause: What the log is to tell in full, where it is nothing foreseen.
        """
        self.enter(name, EngineStatus(state="rejected", reason=reason))
        _log.error(
            "engine is rejected: it is tried again at the next start, or by `jetface engine build`",
            model=name, reason=reason, is_served=is_served, exc_info=None if isinstance(cause, ServiceError) else cause,
        )  # fmt: skip

    def building(self, name: str) -> ModelBuildingError:
        """Return the error of a caller who has to wait for an engine."""
        status = self.status(name)
        return ModelBuildingError(
            f"The engine of model {name} is being built, {100 * (status.progress or 0):.0f} % done.",
            retry_after_s=status.eta_s or _UNKNOWN_ETA_S,
        )
