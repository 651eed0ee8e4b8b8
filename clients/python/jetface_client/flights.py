"""What the two clients do differently: waiting, and having several requests in flight."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

in_thread = asyncio.to_thread
pause = asyncio.sleep
wait = time.sleep


def here(function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
    """Call a function: what a thread does where an event loop would ask one."""
    return function(*args, **kwargs)


class AsyncFlights(Generic[Result]):
    """At most `most` tasks at a time, which land in the order in which they were started; all end with the block."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: deque[tuple[Path, asyncio.Task[Result]]] = deque()

    @property
    def are_full(self) -> bool:
        """Whether one has to land before another is started."""
        return len(self._tasks) >= self._most

    def __bool__(self) -> bool:
        """Whether any is in flight."""
        return bool(self._tasks)

    def start(
        self,
        path: Path,
        work: Callable[Parameters, Coroutine[Any, Any, Result]],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> None:
        """Begin `work` of a file."""
        self._tasks.append((path, asyncio.create_task(work(*args, **kwargs))))

    async def land(self) -> tuple[Path, Result]:
        """Wait for the first; return its file and what came of it."""
        path, task = self._tasks[0]
        result = await task
        self._tasks.popleft()
        return path, result

    async def __aenter__(self) -> AsyncFlights[Result]:
        return self

    async def __aexit__(self, *_error: object) -> None:
        for _, task in self._tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task in self._tasks), return_exceptions=True)


class Flights(Generic[Result]):
    """As `AsyncFlights`, on threads: what has begun when the block is left is waited for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="jetface-client")
        self._futures: deque[tuple[Path, Future[Result]]] = deque()

    @property
    def are_full(self) -> bool:
        """Whether one has to land before another is started."""
        return len(self._futures) >= self._most

    def __bool__(self) -> bool:
        """Whether any is in flight."""
        return bool(self._futures)

    def start(
        self, path: Path, work: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> None:
        """Begin `work` of a file."""
        self._futures.append((path, self._pool.submit(work, *args, **kwargs)))

    def land(self) -> tuple[Path, Result]:
        """Wait for the first; return its file and what came of it."""
        path, future = self._futures.popleft()
        return path, future.result()

    def __enter__(self) -> Flights[Result]:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
