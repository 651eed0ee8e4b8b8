"""Threads for work that releases the interpreter lock: decoding, resizing, alignment, encoding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from typing_extensions import ParamSpec

P = ParamSpec("P")
T = TypeVar("T")


class WorkPool:
    """A pool of `num_threads` threads, shared by all stages that are neither detector nor recognizer.

    What waits for it is bounded by the places at the door times the pictures a request works on at once.
    """

    def __init__(self, num_threads: int) -> None:
        self.executor = ThreadPoolExecutor(num_threads, thread_name_prefix="work")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on a thread of the pool. Cancelling the caller does not stop a call that has begun."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Drop what has not begun and let the threads end."""
        self.executor.shutdown(wait=False, cancel_futures=True)
