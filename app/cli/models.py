"""`jetface models`: what the registry knows, and where its weights are."""

from __future__ import annotations

import click


@click.group()
def models() -> None:
    """Look at the registry and its weights."""
