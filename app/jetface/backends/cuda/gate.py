"""Who may use the device while ONNX Runtime captures a CUDA graph: nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


class CaptureGate:
    """Lets runs pass together, and a capture alone. Thread-safe.

    ONNX Runtime captures in CUDA's global mode: an allocation by any other thread of the process meanwhile fails, and
    makes the capture fail too.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_passing = 0
        self._num_opening = 0
        self._num_waiting = 0
        self._num_patient = 0
        self._is_capturing = False
        self._passing = _Passing(self._enter, self._leave)

    @property
    def is_awaited(self) -> bool:
        """Whether a patient capture waits for what is being opened."""
        return self._num_patient > 0

    def passing(self) -> AbstractContextManager[None]:
        """Run beside others; waits while there is a capture, or one waits."""
        return self._passing

    def _enter(self) -> None:
        with self._changed:
            if self._is_capturing or self._num_waiting:
                self._changed.wait_for(lambda: not self._is_capturing and not self._num_waiting)
            self._num_passing += 1

    def _leave(self) -> None:
        with self._changed:
            self._num_passing -= 1
            if self._num_waiting:
                self._changed.notify_all()

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Run beside others for seconds, as when a model is opened or runs a shape for the first time.

        No capture holds others up for that long; one that is patient comes before the next to open.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._num_patient)
            self._num_opening += 1
        try:
            with self.passing():
                yield
        finally:
            with self._changed:
                self._num_opening -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self, *, wait_s: float, patience_s: float = 0.0) -> Iterator[bool]:
        """Capture, once all who pass are through; nobody begins to pass meanwhile.

        Args:
            wait_s: Most seconds to hold the others up for, before giving way to them.
            patience_s: Most seconds to wait, holding up none that run, until nothing is being opened.

        Yields:
            Whether the device is the caller's; if not, others pass, and the caller passes as they do.
        """
        with self._changed:
            self._num_patient += 1
            self._changed.wait_for(lambda: not self._num_opening, patience_s)
            self._num_patient -= 1
            self._num_waiting += 1
            wait_s = 0.0 if self._num_opening else wait_s
            is_alone = self._changed.wait_for(lambda: not self._is_capturing and not self._num_passing, wait_s)
            self._num_waiting -= 1
            self._is_capturing = self._is_capturing or is_alone
            self._changed.notify_all()
        if not is_alone:
            with self.passing():
                yield False
            return
        try:
            yield True
        finally:
            with self._changed:
                self._is_capturing = False
                self._changed.notify_all()


class _Passing(AbstractContextManager[None]):
    """One for all runs: it holds nothing itself, and every run passes, so making one each would add up."""

    def __init__(self, enter: Callable[[], None], leave: Callable[[], None]) -> None:
        self._enter = enter
        self._leave = leave

    def __enter__(self) -> None:
        self._enter()

    def __exit__(self, *_: object) -> None:
        self._leave()
