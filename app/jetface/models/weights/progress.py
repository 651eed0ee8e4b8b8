"""How far a download is: a bar for people, lines in the log for machines."""

from __future__ import annotations

import sys

import structlog
from tqdm import tqdm

_log = structlog.get_logger(__name__)

_STEP_PERCENT = 10


class DownloadProgress:
    """Tells of a download on stderr: a progress bar if that is a terminal, else a log line each 10 %."""

    def __init__(self, name: str, total_bytes: int, *, is_terminal: bool | None = None) -> None:
        """Start telling.

        Args:
            name: The model.
            total_bytes: Length of the download; 0 when the server does not say.
            is_terminal: Whether a person watches; None asks stderr.
        """
        self._name = name
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._told_percent = 0
        is_shown = sys.stderr.isatty() if is_terminal is None else is_terminal
        self._bar = (
            tqdm(desc=name, total=total_bytes or None, unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr)
            if is_shown
            else None
        )

    def advance(self, num_bytes: int) -> None:
        """Count bytes that have arrived."""
        self._done_bytes += num_bytes
        if self._bar is not None:
            self._bar.update(num_bytes)
            return
        percent = 100 * self._done_bytes // self._total_bytes if self._total_bytes else 0
        if percent >= self._told_percent + _STEP_PERCENT:
            self._told_percent = percent - percent % _STEP_PERCENT
            _log.info("downloading", model=self._name, percent=self._told_percent, total_bytes=self._total_bytes)

    def close(self) -> None:
        """Stop telling."""
        if self._bar is not None:
            self._bar.close()
