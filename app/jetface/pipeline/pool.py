"""Threads for work that releases the interpreter lock: decoding, resizing, alignment, encoding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from typing_extensions import ParamSpec

from jetface.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")


class WorkPool:
    """A pool of `num_threads` threads, shared by all stages that are neither detector nor recognizer.

    What waits for it is bounded by the places at the door times the pictures a request works on at once.
    """

    def __init__(self, num_threads: int) -> None:
        self.threads = Threads(num_threads, "work")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on a thread of the pool. Cancelling the caller does not stop a call that has begun.

        Raises:
            ShuttingDownError: The pool is closed.
        """
        return await self.threads.call(partial(function, *args, **kwargs))

    def close(self) -> None:
        """Refuse what has not begun and let the threads end."""
        self.threads.close()
