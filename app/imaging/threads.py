"""Calls on threads that a caller can leave, while what they hold is given back only when they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar

from app.errors import DeadlineExceededError, ShuttingDownError

T = TypeVar("T")


async def call_on_thread(
    executor: Executor, function: Callable[[], T], *, deadline: float, on_failure: Callable[[], None] | None = None
) -> T:
    """Call `function` on a thread and wait for it.

    A call that has not begun when its caller is cancelled or late never begins; one that has begun cannot be stopped,
    and goes on without its caller.

    Args:
        executor: Where to call.
        function: What to call.
        deadline: `loop.time()` after which the result is of no use.
        on_failure: Called on the loop, once, if no result is returned; not before the call has ended.

    Returns:
        What `function` returned.

    Raises:
        DeadlineExceededError: The deadline passed.
        ShuttingDownError: The executor takes no more calls.
    """
    loop = asyncio.get_running_loop()
    give_back = on_failure or _nothing
    if loop.time() >= deadline:
        give_back()
        raise _too_late()
    try:
        call = executor.submit(function)
    except RuntimeError:
        give_back()
        raise ShuttingDownError("The service is shutting down.", retry_after_s=1.0) from None
    future = asyncio.wrap_future(call)
    try:
        await asyncio.wait({future}, timeout=deadline - loop.time())
        return _result(future)
    except BaseException:
        future.cancel()  # reaches the call if it has not begun
        call.add_done_callback(lambda _: _on_loop(loop, give_back))
        raise


def _result(future: asyncio.Future[T]) -> T:
    if not future.done():
        raise _too_late()
    return future.result()


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("The deadline passed before the picture was decoded.")


def _on_loop(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody counts any more
        loop.call_soon_threadsafe(function)


def _nothing() -> None:
    return
