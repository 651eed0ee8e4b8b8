"""The tree of errors: complete, drawn as it is, safe to share with callers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import jetface.errors
from jetface.errors import QueueFullError, ServiceError


def tree(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    """`kind` and everything below it."""
    yield kind
    for below in kind.__subclasses__():
        yield from tree(below)


KINDS = [kind for kind in tree(ServiceError) if kind.__module__ == "jetface.errors"]


def test_every_code_is_its_own() -> None:
    """A program tells errors apart by code alone."""
    codes = [kind.code for kind in KINDS]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", KINDS)
def test_is_drawn_in_the_docstring(kind: type[ServiceError]) -> None:
    """Each class stands in the module's tree, with its code and below its parent."""
    drawing = (jetface.errors.__doc__ or "").splitlines()
    rows = [line for line in drawing if f" {kind.__name__} " in line]
    assert len(rows) == 1
    if kind is not ServiceError:
        assert kind.code in rows[0].split()
        depth = len(kind.__mro__) - len(ServiceError.__mro__)
        assert rows[0].index(kind.__name__) == 4 + 3 * depth


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_equal_and_another(kind: type[ServiceError]) -> None:
    """Two callers get the same facts on two exception objects."""
    error = kind("One sentence.", retry_after_s=2, model="det_500m")
    copy = error.copy()
    assert copy is not error
    assert type(copy) is kind
    assert (copy.message, copy.retry_after_s, copy.details) == ("One sentence.", 2, {"model": "det_500m"})


def test_the_message_is_the_text() -> None:
    """What is logged is what the caller is told."""
    assert str(QueueFullError("The queue is full.", retry_after_s=1)) == "The queue is full."
