"""Logs of commands that a person runs: what went wrong ends in one line, the log is for who asks for it."""

from __future__ import annotations

import click

from jetface.heads.families import read_known
from jetface.logs import configure_logs
from jetface.registry import default_registry_dir
from jetface.settings import Settings


def configure_quiet_logs(settings: Settings) -> None:
    """Log nothing unless LOG_LEVEL is set: a command tells its result and its errors itself.

    Registry entries that cannot be read are told on stderr all the same.
    """
    is_asked_for = "log_level" in settings.model_fields_set
    configure_logs(settings.log_level if is_asked_for else "CRITICAL", settings.log_format)
    if not is_asked_for:
        for error in read_known((default_registry_dir(), settings.models_dir)).unreadable.values():
            click.echo(f"Warning: {error}; the entry is left out.", err=True)
