"""How far a build is, from what TensorRT says of its phases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jetface.backends.engines.kit import BuildProgress

_LONG_PART = {
    "Building engine": "Building engine from subgraph",
    "Building engine from subgraph": "Computing profile costs",
}
"""Phases that consist of one long phase and short ones around it. Others are taken to be what they say they are."""

_LONG_SHARE = 0.9
"""What the long phase is worth of the phase it is part of: minutes of seconds more, on a device."""


@dataclass(slots=True, eq=False)
class _Phase:
    name: str
    num_steps: int
    is_long: bool
    """Whether it is the long part of the phase around it."""
    steps_done: int = 0
    long_done: int = 0
    """Long parts of it that are over."""

    def value(self, inner: _Phase | None, inner_value: float) -> float:
        """How much of it is done, 0 to 1, when `inner` within it is done by `inner_value`."""
        in_step = inner_value if inner and not inner.is_long else 0.0
        stepped = min(1.0, (self.steps_done + in_step) / self.num_steps)
        if self.name not in _LONG_PART:
            return stepped
        # The root has one long part; a subgraph's phase one with each step.
        parts = 1 if self.name == "Building engine" else self.num_steps
        in_part = inner_value if inner and inner.is_long else 0.0
        return (1 - _LONG_SHARE) * stepped + _LONG_SHARE * min(1.0, (self.long_done + in_part) / parts)


class ProgressTree:
    """Adds up phases, steps and phases within steps to one fraction that never goes back.

    A phase is worth one step of the phase it is part of, unless it is known to be its long part. Phases that are part
    of none follow each other: the first is worth nine tenths of a build, the next as much of the rest, and so on.
    """

    def __init__(self) -> None:
        self._open: list[_Phase] = []
        """Outermost first."""
        self._rest = 1.0
        """Share of the build that no outermost phase has had."""
        self._fraction = 0.0

    @property
    def fraction(self) -> float:
        """0 to 1; never less than it was."""
        return self._fraction

    @property
    def phase(self) -> str:
        """The innermost phase; empty between phases."""
        return self._open[-1].name if self._open else ""

    def start(self, name: str, parent: str | None, num_steps: int) -> None:
        """Note that a phase has begun.

        Args:
            name: Of the phase.
            parent: Name of the phase it is part of; None: of none.
            num_steps: Steps it will take; less than 1 counts as 1.
        """
        is_long = parent is not None and _LONG_PART.get(parent) == name
        self._open.append(_Phase(name, max(1, num_steps), is_long))
        self._update()

    def step(self, name: str, step: int) -> None:
        """Note that step number `step` of a phase is done, counted from 0."""
        if phase := self._find(name):
            phase.steps_done = min(phase.num_steps, max(phase.steps_done, step + 1))
            self._update()

    def finish(self, name: str) -> None:
        """Note that a phase is over, and with it what is still open within it."""
        phase = self._find(name)
        if phase is None:
            return
        at = self._open.index(phase)
        del self._open[at:]
        if at == 0:
            self._rest *= 1 - _LONG_SHARE
        elif phase.is_long:
            self._open[at - 1].long_done += 1
        self._update()

    def _find(self, name: str) -> _Phase | None:
        return next((phase for phase in reversed(self._open) if phase.name == name), None)

    def _update(self) -> None:
        inner, value = None, 0.0
        for phase in reversed(self._open):
            inner, value = phase, phase.value(inner, value)
        self._fraction = max(self._fraction, min(1.0, 1 - self._rest + self._rest * _LONG_SHARE * value))


class BuildWatch:
    """Reports a build's progress, and ends it when whoever hears of it raises."""

    def __init__(self, on_progress: Callable[[BuildProgress], None]) -> None:
        self._on_progress = on_progress
        self._tree = ProgressTree()
        self._lock = threading.Lock()  # TensorRT may build with several threads
        self._reported = -1.0
        self.error: BaseException | None = None
        """What `on_progress` raised: why the build was ended."""

    def monitor(self, trt: Any) -> Any:
        """Return an `IProgressMonitor` of this TensorRT that tells this watch; keep it as long as the build takes."""
        watch = self

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is found at run time
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)  # pybind11 wants it called by name

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                watch.tell(lambda tree: tree.start(phase_name, parent_phase, num_steps))

            def step_complete(self, phase_name: str, step: int) -> bool:
                return watch.tell(lambda tree: tree.step(phase_name, step))

            def phase_finish(self, phase_name: str) -> None:
                watch.tell(lambda tree: tree.finish(phase_name))

        return Monitor()

    def done(self) -> None:
        """Report that all is done."""
        self._on_progress(BuildProgress(1.0, "plan ready"))

    def tell(self, event: Callable[[ProgressTree], None]) -> bool:
        """Take an event in; return whether the build is to go on. Never raises: the caller is C++.

        A report follows where a hundredth more is done, or another phase has begun since the last one.
        """
        with self._lock:
            if self.error is not None:
                return False
            try:
                event(self._tree)
                if self._tree.fraction >= self._reported + 0.01:
                    self._reported = self._tree.fraction
                    self._on_progress(BuildProgress(self._tree.fraction, self._tree.phase))
            except BaseException as error:  # noqa: BLE001 - raised again where the build was started
                self.error = error
                return False
            return True
