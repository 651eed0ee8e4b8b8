"""How a batcher's model is doing: did its last run pass, how long does an item take, does a probe get through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

_NEWEST_RUN_WEIGHT = 0.2
"""Share of the newest run in the running mean of seconds per item: a change of load shows after some five runs."""

_UNMEASURED_RETRY_S = 1.0
"""What a refused caller is told before any run has ended."""


class Health:
    """The memory of one batcher's runs. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self.last_run_failed = False
        self._item_s: float | None = None
        self._probe: asyncio.Task[bool] | None = None

    def note_passed(self, num_items: int, took_s: float) -> None:
        """Note a run that passed."""
        self.last_run_failed = False
        item_s = took_s / num_items
        mean_s = item_s if self._item_s is None else self._item_s
        self._item_s = mean_s + _NEWEST_RUN_WEIGHT * (item_s - mean_s)

    def note_failed(self) -> None:
        """Note a run that failed; it says nothing about how long a good one takes."""
        self.last_run_failed = True

    def forget(self) -> None:
        """Know nothing again: other lanes have taken over."""
        self.last_run_failed = False
        self._item_s = None

    def seconds_for(self, num_items: int, num_lanes: int) -> float:
        """How long `num_lanes` lanes will be at `num_items` items, from the measured time an item takes."""
        return _UNMEASURED_RETRY_S if self._item_s is None else num_items * self._item_s / num_lanes

    async def probe_once(self, run_probe: Callable[[], Coroutine[None, None, bool]]) -> bool:
        """Return what a probe finds; calls that come while one is under way share it.

        A caller that is cancelled leaves the probe to the others.
        """
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(run_probe())
        return await asyncio.shield(self._probe)

    async def wait_for_probe(self) -> None:
        """Wait until no probe is under way."""
        if self._probe is not None:
            await asyncio.wait([self._probe])
