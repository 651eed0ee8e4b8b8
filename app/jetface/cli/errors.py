"""`jetface errors`: every error the service answers with, from the tree itself."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator

import click

from jetface.errors import ImageTooLargeError, ServiceError
from jetface.server.encoding import envelope, status_of

_HEAD = """\
# Errors

Written by `jetface errors` from the tree in `app/jetface/errors.py`; do not edit.

Whatever cannot be answered has this body, as JSON or as the msgpack that was asked for, and an `x-request-id` header:

```json
{example}
```

Tell errors apart by `code`: it does not change, while messages may get better. `details` holds facts a program can act
on. Where trying again makes sense after a known time there is a `Retry-After` header, seconds.

A picture that cannot be read or fetched fails its own place in the answer, which is 200: `/extract` has one sentence
under `traceback`, the other routes `error` with `code` and `message`. A picture without a face is no error.

| code | status | when | what to do |
|---|---|---|---|
"""


def error_classes(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """Yield `kind` and all below it, each before its children, as the tree is drawn."""
    yield kind
    for below in kind.__subclasses__():
        yield from error_classes(below)


def error_catalogue() -> str:
    """Return the catalogue as Markdown."""
    example = envelope(
        ImageTooLargeError("The picture has too many pixels.", max_image_pixels=50_000_000), "5c8699352de82f62"
    )
    return _HEAD.format(example=json.dumps(example)) + "".join(map(_row, error_classes()))


def _row(kind: type[ServiceError]) -> str:
    when = " ".join(inspect.cleandoc(kind.__doc__ or "").split())
    return f"| `{kind.code}` | {status_of(kind).value} | {when} | {kind.remedy} |\n"


@click.command()
def errors() -> None:
    """Print the catalogue of errors as Markdown: code, status, when, what to do."""
    click.echo(error_catalogue(), nl=False)
