"""Which error a waiter gets."""

from __future__ import annotations

import pytest

import jetface.errors
from jetface.batching.batcher import own_error
from jetface.batching.queue import may_be_one_item
from jetface.errors import (
    BackendUnavailableError,
    DeviceMemoryError,
    InferenceError,
    ModelFileError,
    QueueFullError,
    ServiceError,
)

KINDS = [kind for kind in vars(jetface.errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_service_error_can_be_given_to_each_waiter_anew(kind: type[ServiceError]) -> None:
    """Type, message and facts stay, the object does not, and the cause is chained."""
    cause = kind("Why.", retry_after_s=2, fact=1)
    error = own_error(cause)
    assert type(error) is kind
    assert error is not cause
    assert (error.message, error.retry_after_s, error.details) == ("Why.", 2, {"fact": 1})
    assert error.__cause__ is cause


@pytest.mark.parametrize("cause", [RuntimeError("a path"), KeyboardInterrupt(), StopIteration()])
def test_what_callers_must_not_see_stays_in_the_cause(cause: BaseException) -> None:
    """A foreign error's message may hold paths."""
    error = own_error(cause)
    assert type(error) is InferenceError
    assert error.__cause__ is cause
    assert str(cause) not in error.message or not str(cause)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError(), True),
        (InferenceError("x"), True),
        (ModelFileError("x"), False),
        (QueueFullError("x"), False),
        (BackendUnavailableError("x"), False),
        (DeviceMemoryError("x"), False),
        (SystemExit(), False),
    ],
)
def test_only_what_an_item_may_have_caused_is_tried_again(error: BaseException, *, expected: bool) -> None:
    """Asking a backend that is not there once an item would only make callers wait."""
    assert may_be_one_item(error) is expected
