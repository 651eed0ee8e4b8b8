"""What TensorRT says while it works: warnings go to the log, errors are kept for the message of a failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

_log = structlog.get_logger(__name__)

_MOST_LINES = 20
"""Warnings that are logged of one piece of work; a build can repeat itself thousands of times."""


_HARMLESS = ("Empty initializer",)
"""Of every detector: exports give Resize an empty region of interest."""


class Messages:
    """Collects what one piece of work has to say."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._seen: set[str] = set()
        self._num_left_out = 0
        self.errors: list[str] = []
        """Texts of the errors, in order, each on one line."""

    @property
    def text(self) -> str:
        """All errors on one line."""
        return "; ".join(dict.fromkeys(self.errors))

    def add(self, text: str, *, is_error: bool) -> None:
        """Take in a message. Errors are logged as warnings: whether the work fails is told by whoever does it."""
        if is_error:
            self.errors.append(text)
        if text in self._seen:
            return
        self._seen.add(text)
        if len(self._seen) > _MOST_LINES:
            self._num_left_out += 1
            return
        _log.warning("TensorRT says", model=self._model, text=text, is_error=is_error)

    def close(self) -> None:
        """Say how many lines were left out."""
        if self._num_left_out:
            _log.warning("TensorRT says more", model=self._model, num_lines_left_out=self._num_left_out)


class Relay:
    """TensorRT's logger. One a process: as long as a builder or an engine is there, it ignores every other."""

    def __init__(self, trt: Any) -> None:
        """Make a logger of this TensorRT."""
        self._listeners: list[Messages] = []
        self.logger = self._make(trt)
        """An `ILogger`, to be given to all that wants one."""

    @contextmanager
    def heard(self, model: str) -> Iterator[Messages]:
        """Collect what is said in the block; what else is said at the same time, in other threads, is too."""
        messages = Messages(model)
        self._listeners.append(messages)
        try:
            yield messages
        finally:
            self._listeners.remove(messages)
            messages.close()

    def tell(self, text: str, *, is_error: bool) -> None:
        """Hand a message to all who listen, or to the log."""
        text = " ".join(text.split())
        if not is_error and any(words in text for words in _HARMLESS):
            return
        for messages in tuple(self._listeners):
            messages.add(text, is_error=is_error)
        if not self._listeners:
            _log.warning("TensorRT says", text=text, is_error=is_error)

    def _make(self, trt: Any) -> Any:
        is_error = {trt.ILogger.INTERNAL_ERROR: True, trt.ILogger.ERROR: True, trt.ILogger.WARNING: False}
        relay = self

        class Logger(trt.ILogger):  # type: ignore[misc]  # the base is found at run time
            def __init__(self) -> None:
                trt.ILogger.__init__(self)  # pybind11 wants it called by name

            def log(self, severity: Any, msg: str) -> None:
                # Thousands of lines are for information alone.
                if severity in is_error:
                    relay.tell(msg, is_error=is_error[severity])

        return Logger()
