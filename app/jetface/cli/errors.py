"""`jetface errors`: every error the service answers with."""

from __future__ import annotations

import click


@click.command()
def errors() -> None:
    """Print the catalogue of errors as Markdown: code, status, when, what to do."""
    from jetface.api.catalogue import error_catalogue  # noqa: PLC0415 - other commands need not import the web framework

    click.echo(error_catalogue(), nl=False)
