"""What TensorRT says while it works: warnings go to the log, errors are kept for the message of a failure."""

from __future__ import annotations

from typing import Any

import structlog

_log = structlog.get_logger(__name__)

_MOST_LINES = 20
"""Warnings that are logged of one piece of work; a build can repeat itself thousands of times."""


class Messages:
    """Collects what one piece of work has to say; the rest of TensorRT's talk is dropped."""

    def __init__(self, model: str = "") -> None:
        self._model = model
        self._seen: set[str] = set()
        self._left_out = 0
        self.errors: list[str] = []
        """Texts of the errors, in order."""

    def logger(self, trt: Any) -> Any:
        """Return an `ILogger` of this TensorRT that tells these messages; keep it as long as what it is given to."""
        levels = {trt.ILogger.INTERNAL_ERROR: True, trt.ILogger.ERROR: True, trt.ILogger.WARNING: False}
        messages = self

        class Logger(trt.ILogger):  # type: ignore[misc]  # the base is found at run time
            def __init__(self) -> None:
                trt.ILogger.__init__(self)  # pybind11 wants it called by name

            def log(self, severity: Any, msg: str) -> None:
                if severity in levels:
                    messages.add(msg, is_error=levels[severity])

        return Logger()

    def add(self, text: str, *, is_error: bool) -> None:
        """Take in a message. Errors are logged as warnings: whether the work fails is told by whoever does it."""
        text = " ".join(text.split())
        if is_error:
            self.errors.append(text)
        if text in self._seen:
            return
        self._seen.add(text)
        if len(self._seen) > _MOST_LINES:
            self._left_out += 1
            return
        _log.warning("TensorRT says", model=self._model, text=text, is_error=is_error)

    @property
    def text(self) -> str:
        """All errors on one line."""
        return "; ".join(dict.fromkeys(self.errors))

    def close(self) -> None:
        """Say how many lines were left out."""
        if self._left_out:
            _log.warning("TensorRT says more of the same kind", model=self._model, lines_left_out=self._left_out)
