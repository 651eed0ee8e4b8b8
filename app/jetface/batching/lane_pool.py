"""The lanes of one batcher: which are free, which one takes the next batch, who takes over, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from jetface.batching.lane import Lane, LaneThread, RunEnd
from jetface.threads import Mailbox

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Crew(Generic[Item, Result]):
    """Lanes that came together and go together: they may share what they close, so none closes while another runs."""

    num_lanes: int
    num_alive: int
    num_starting: int
    free: list[LaneThread[Item, Result]] = field(default_factory=list)
    without_ready: dict[LaneThread[Item, Result], None] = field(default_factory=dict)
    """Lanes in a run that take ahead and have no batch ready behind it, by when their runs began."""
    all_started: asyncio.Event = field(default_factory=asyncio.Event)
    start_error: BaseException | None = None
    """Of the first lane that could not start."""
    is_retired: bool = False
    """Whether its lanes run nothing more."""
    is_dismissed: bool = False
    """Whether its lanes are to stop as soon as each is free, whatever the others do."""


class LanePool(Generic[Item, Result]):
    """Lanes with their threads. Belongs to the event loop's thread."""

    def __init__(
        self,
        lanes: Sequence[Lane[Item, Result]],
        name: str,
        loop: asyncio.AbstractEventLoop,
        *,
        on_ready: Callable[[], None],
        on_end: Callable[[LaneThread[Item, Result], RunEnd[Result]], None],
    ) -> None:
        """Start the lanes.

        Args:
            lanes: At least one.
            name: For their threads.
            loop: Whose thread everything is called on.
            on_ready: Called when a lane that had to start first has become free.
            on_end: Called when a run has ended, its lane being free again or in its next run.
        """
        self._name = name
        self._mailbox = Mailbox(loop)
        self._on_ready = on_ready
        self._on_run_end = on_end
        self._num_alive = 0
        self._crews: dict[LaneThread[Item, Result], _Crew[Item, Result]] = {}
        self.all_stopped = asyncio.Event()
        self._crew = self._hire(lanes)

    @property
    def num_free(self) -> int:
        """Lanes that could run now."""
        return len(self._crew.free)

    @property
    def num_ahead(self) -> int:
        """Lanes in a run that could be given the batch after it."""
        return len(self._crew.without_ready)

    @property
    def num_lanes(self) -> int:
        """Lanes that serve now."""
        return self._crew.num_lanes

    @property
    def num_alive(self) -> int:
        """Lanes that have not stopped, those that were replaced included."""
        return self._num_alive

    async def wait_until_started(self) -> None:
        """Wait until each lane has made what it needs.

        Raises:
            BaseException: What a lane's `start` raised. The others go on.
        """
        await _started(self._crew)

    async def replace(self, lanes: Sequence[Lane[Item, Result]]) -> None:
        """Start other lanes, and let them take over when all of them are ready; the former close after their runs.

        Raises:
            BaseException: What a lane's `start` raised: the new lanes are closed, the former serve on.
        """
        crew = self._hire(lanes)
        try:
            await _started(crew)
        except BaseException:
            self._retire(crew)
            raise
        if self._crew.is_dismissed:  # closed meanwhile
            self._retire(crew)
            return
        former, self._crew = self._crew, crew
        self._retire(former)

    def claim(self) -> LaneThread[Item, Result]:
        """Take a lane out of the free ones: the one that ran last, whose caches are warm. Only while `num_free` > 0."""
        thread = self._crew.free.pop()
        if thread.takes_ahead:
            self._crew.without_ready[thread] = None
        return thread

    def claim_ahead(self) -> LaneThread[Item, Result]:
        """Choose who is given a batch before its run ends: whose run began first. Only while `num_ahead` > 0."""
        thread = next(iter(self._crew.without_ready))
        del self._crew.without_ready[thread]
        return thread

    def stop_free(self) -> None:
        """Close the lanes that are free now, and each other one when it is; none of them is claimed again."""
        for crew in {self._crew, *self._crews.values()}:
            crew.is_dismissed = True
            self._stop(crew)

    def _hire(self, lanes: Sequence[Lane[Item, Result]]) -> _Crew[Item, Result]:
        crew: _Crew[Item, Result] = _Crew(len(lanes), len(lanes), sum(lane.start is not None for lane in lanes))
        self._num_alive += len(lanes)
        self.all_stopped.clear()
        for index, lane in enumerate(lanes):
            thread = LaneThread(
                lane,
                f"{self._name}-{index}",
                self._mailbox,
                on_start=self._on_start,
                on_end=self._on_end,
                on_stop=self._on_stop,
            )
            self._crews[thread] = crew
            if lane.start is None:
                crew.free.append(thread)
        if not crew.num_starting:
            crew.all_started.set()
        return crew

    def _retire(self, crew: _Crew[Item, Result]) -> None:
        crew.is_retired = True
        self._stop_when_idle(crew)

    def _stop_when_idle(self, crew: _Crew[Item, Result]) -> None:
        if crew.is_dismissed or (crew.is_retired and len(crew.free) == crew.num_alive):
            self._stop(crew)

    def _stop(self, crew: _Crew[Item, Result]) -> None:
        for thread in crew.free:
            thread.stop()
        crew.free.clear()

    def _on_start(self, thread: LaneThread[Item, Result], error: BaseException | None) -> None:
        crew = self._crews[thread]
        crew.num_starting -= 1
        if error is None:
            crew.free.append(thread)
        else:
            crew.start_error = crew.start_error or error
        if not crew.num_starting:
            crew.all_started.set()
        self._stop_when_idle(crew)
        if crew is self._crew and crew.free:
            self._on_ready()

    def _on_end(self, thread: LaneThread[Item, Result], end: RunEnd[Result]) -> None:
        crew = self._crews[thread]
        if thread.takes_ahead and thread not in crew.without_ready:
            crew.without_ready[thread] = None  # it runs what lay ready
        else:
            crew.without_ready.pop(thread, None)
            crew.free.append(thread)
        self._on_run_end(thread, end)
        self._stop_when_idle(crew)

    def _on_stop(self, thread: LaneThread[Item, Result]) -> None:
        thread.join()
        crew = self._crews.pop(thread)
        crew.num_alive -= 1
        self._num_alive -= 1
        if not self._num_alive:
            self.all_stopped.set()
        self._stop_when_idle(crew)


async def _started(crew: _Crew[Item, Result]) -> None:
    await crew.all_started.wait()
    if crew.start_error is not None:
        raise crew.start_error
