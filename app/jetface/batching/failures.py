"""What becomes of those who wait when a run fails: which error each gets, and whether a second try makes sense."""

from __future__ import annotations

from jetface.errors import (
    BackendUnavailableError,
    CapacityError,
    DeadlineExceededError,
    DeviceMemoryError,
    InferenceError,
    ModelError,
    ServiceError,
    ShuttingDownError,
)


def may_be_one_item(error: BaseException) -> bool:
    """Whether a failed batch is worth running again item by item.

    Not when the lane says that the model or the backend cannot be had, that it has tried with less already, nor when it
    was told to exit: the items are not to blame then.
    """
    at_fault = (ModelError, CapacityError, BackendUnavailableError, DeviceMemoryError)
    return isinstance(error, Exception) and not isinstance(error, at_fault)


def own_error(cause: BaseException) -> ServiceError:
    """Return a new error for one waiter: a shared exception object would collect everybody's traceback.

    A `ServiceError` keeps its type and message; anything else is an `InferenceError`. `cause` is chained.
    """
    error = cause.copy() if isinstance(cause, ServiceError) else InferenceError("The model's run failed.")
    error.__cause__ = cause
    return error


def deadline_exceeded() -> DeadlineExceededError:
    """Return the error of a caller whose deadline has passed."""
    return DeadlineExceededError("The deadline passed before the answer was ready.")


def shutting_down() -> ShuttingDownError:
    """Return the error of a caller whom a closing batcher cannot serve."""
    return ShuttingDownError("The service is shutting down.", retry_after_s=1)
