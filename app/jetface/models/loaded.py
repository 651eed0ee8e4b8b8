"""A model that serves: its registry entry, its backend and the queue in front of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from jetface.batching.batcher import Batcher
from jetface.models.items import ItemMemory
from jetface.registry import ModelSpec

Item = TypeVar("Item")
Result = TypeVar("Result")


LoadPhase = Literal["waiting", "checking", "downloading", "opening", "warming"]
"""What a load is at: it waits for its turn; hashes the file that is here; fetches it; prepares the graph and opens it;
runs it for the shapes that will come."""

_UNKNOWN_ETA_S = 5.0
"""What callers are told where nothing says how long a load will take: most take less."""


class LoadProgress:
    """How far a load is. Written by whoever does the load, read by anybody."""

    def __init__(self) -> None:
        self.phase: LoadPhase = "waiting"
        self._started = self._phase_started = time.monotonic()
        self._done_bytes = self._total_bytes = 0

    @property
    def age_s(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self._started

    @property
    def fraction(self) -> float | None:
        """How much of a download is here, [0, 1]; None in other phases, and where its length is not known."""
        if self.phase != "downloading" or not self._total_bytes:
            return None
        return min(1.0, self._done_bytes / self._total_bytes)

    @property
    def retry_after_s(self) -> float:
        """Seconds after which a second try makes sense: what is left of a download by its rate so far."""
        fraction = self.fraction
        if not fraction:
            return _UNKNOWN_ETA_S
        took_s = time.monotonic() - self._phase_started
        return max(1.0, took_s * (1 - fraction) / fraction)

    @property
    def words(self) -> str:
        """Where it is, for people."""
        if self.phase == "waiting":
            return "it waits for other models"
        if self.phase != "downloading":
            return f"{self.phase}, for {time.monotonic() - self._phase_started:.0f} s"
        of = f" of {self._total_bytes / 2**20:.0f}" if self._total_bytes else ""
        return f"downloading, {self._done_bytes / 2**20:.0f}{of} MiB"

    def enter(self, phase: LoadPhase) -> None:
        """Begin a phase."""
        self.phase, self._phase_started = phase, time.monotonic()

    def note_bytes(self, done_bytes: int, total_bytes: int) -> None:
        """Note how much of a download is here, and how much there is; 0 where that is not known."""
        self._done_bytes, self._total_bytes = done_bytes, total_bytes


class Users:
    """Who holds a model, from getting it until its answers are there: it is not closed under them.

    Entered by each of them. Belongs to the event loop.
    """

    def __init__(self) -> None:
        self._num = 0
        self._freed: asyncio.Event | None = None
        self._free_since = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since nobody holds the model; 0 while somebody does."""
        return 0.0 if self._num else time.monotonic() - self._free_since

    async def wait_until_free(self) -> None:
        """Return when nobody holds the model."""
        while self._num:
            self._freed = asyncio.Event()
            await self._freed.wait()

    def __enter__(self) -> None:
        """Begin to hold the model."""
        self._num += 1

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        self._num -= 1
        self._free_since = time.monotonic()
        if self._freed is not None and not self._num:
            self._freed.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel(Generic[Item, Result]):
    """What the store hands out. `batcher` takes items of many requests and settles each."""

    spec: ModelSpec
    backend: str
    """Name an operator sees: `onnxruntime-cpu`, `onnxruntime-cuda`, ..."""
    sha256: str | None = None
    """Of the file that it was made of; None where it was made of none."""
    batcher: Batcher[Item, Result]
    input_hw: tuple[int, int] | None = None
    """Height and width the graph is fixed to; None when it takes any canvas."""
    is_batch_free: bool = True
    """Whether a run may take several items: each is answered as if alone."""
    cpu_nodes: tuple[str, ...] = ()
    """Nodes that run on the CPU although a GPU was asked for, `operator name`."""
    items: ItemMemory = field(default_factory=ItemMemory)
    """Where its items are made; whoever loads it has pinned memory there by then, or an engine that takes over will."""

    users: Users = field(default_factory=Users)
    """Entered by each request that uses the model, with no wait between getting it and that."""

    async def close(self, *, grace_s: float) -> None:
        """Run what waits for at most `grace_s`, then free the backend."""
        try:
            await self.batcher.close(grace_s=grace_s)
        finally:
            self.items.close()
