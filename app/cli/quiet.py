"""Logs of commands that a person runs: what went wrong ends in one line, the log is for who asks for it."""

from __future__ import annotations

from app.logs import configure_logs
from app.settings import Settings


def configure_quiet_logs(settings: Settings) -> None:
    """Log nothing unless LOG_LEVEL is set: a command tells its result and its errors itself."""
    is_asked_for = "log_level" in settings.model_fields_set
    configure_logs(settings.log_level if is_asked_for else "CRITICAL", settings.log_format)
