"""The worker processes of one service: who starts them, who replaces them, what each counted, in one answer.

A parent that loads no model and no library of a GPU starts `WORKERS` processes, one a slot, which share its listening
sockets. Each has a socket of its own to the parent: the parent hears that it serves and that its event loop turns, it
hears that it is to retire, and that the parent has gone. Nothing of it lies in a folder.

A scrape of `/metrics` reaches whichever worker takes the connection. So each leaves what it has counted on a sheet of
memory that all of them have open, and any of them answers for all, its own figures being fresh. The library's own mode
for several processes knows no gauges that are asked at each scrape, which most of ours are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from typing_extensions import Self

from jetface.device.checks import STARTUP_FAILURE
from jetface.server.drain import Drain, Server

_log = structlog.get_logger("jetface.server.workers")

PUBLISH_EVERY_S = 5.0
"""How old the figures of the other workers may be."""

START_TIMEOUT_S = 600.0
"""Longest time from the start of a worker until it serves; models are loaded behind the open port."""

STEADY_S = 10.0
"""A worker that served as long as this is replaced at once; one that did not, after a pause."""

LONGEST_PAUSE_S = 60.0
"""Most seconds before a worker is started again; the pauses before are 1, 2, 4, ... seconds."""

MOST_FAILED_STARTS = 5
"""Starts of a slot that fail in a row, with no worker serving, before the service ends."""

_SERVES, _TURNS, _RETIRE, _ORDER = b"S", b".", b"R", b"O"
"""What is said between a worker and its parent, by the first byte of a message; an order goes on with its words."""

_LONGEST_MESSAGE_BYTES = 4096

_HEAD = struct.Struct("<QI")
"""Before the text of a sheet: its length and its checksum, by which a reader knows that nobody wrote meanwhile."""


class Sheet:
    """Text in memory that several processes have open: one writes it, the others read it, nobody waits."""

    def __init__(self, fd: int) -> None:
        """Take part by a descriptor that was inherited; `new` makes the first."""
        self.fd = fd

    @classmethod
    def new(cls, name: str) -> Self:
        """Return an empty sheet.

        Args:
            name: For whoever looks at `/proc/PID/fd`.
        """
        return cls(os.memfd_create(name))

    def write(self, text: bytes) -> None:
        """Replace the text."""
        content = _HEAD.pack(len(text), zlib.crc32(text)) + text
        os.pwrite(self.fd, content, 0)
        os.ftruncate(self.fd, len(content))

    def read(self) -> str | None:
        """Return the text; None where there is none, or where its writer was killed while it wrote."""
        for _ in range(3):
            content = os.pread(self.fd, os.fstat(self.fd).st_size, 0)
            if len(content) < _HEAD.size:
                return None
            length, checksum = _HEAD.unpack_from(content)
            text = content[_HEAD.size : _HEAD.size + length]
            if len(text) == length and zlib.crc32(text) == checksum:
                return text.decode()
        return None

    def clear(self) -> None:
        """Leave no text."""
        os.ftruncate(self.fd, 0)

    def close(self) -> None:
        """Close this process's descriptor."""
        os.close(self.fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What a worker is given by its parent, as one word of its command line: descriptors that it inherits."""

    slot: int
    """0 to `WORKERS` - 1: the number of this worker's series, and of the one that is started in its place."""
    control: int
    """The socket to the parent."""
    listeners: tuple[int, ...]
    """The sockets to listen on, bound by the parent."""
    sheets: tuple[int, ...]
    """The sheets of metrics, one a slot and the parent's as the last."""
    beat_s: float
    """Seconds between two signs of life."""

    def __str__(self) -> str:
        """Return the word."""
        lists = (",".join(map(str, fds)) for fds in (self.listeners, self.sheets))
        return ":".join([str(self.slot), str(self.control), *lists, str(self.beat_s)])

    @classmethod
    def parse(cls, word: str) -> Self:
        """Read the word."""
        slot, control, listeners, sheets, beat_s = word.split(":")
        return cls(
            slot=int(slot),
            control=int(control),
            listeners=tuple(map(int, listeners.split(","))),
            sheets=tuple(map(int, sheets.split(","))),
            beat_s=float(beat_s),
        )


class Worker:
    """One worker, as itself: tells its parent that it lives, and all what it counted. Belongs to one event loop."""

    def __init__(self, post: Post) -> None:
        """Take the post; nothing is said or counted before `serving`."""
        self.server: Server | None = None
        """What serves; whoever makes it says so before it runs."""
        self._post = post
        self.listeners = [socket.socket(fileno=fd) for fd in post.listeners]
        """What to listen on, as all workers do."""
        self._control = socket.socket(fileno=post.control)
        self._sheets = [Sheet(fd) for fd in post.sheets]
        self._registry = CollectorRegistry()
        self._drain: Drain | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.on_order: Callable[[str], None] | None = None
        """Called with what another worker ordered of all."""

    @property
    def slot(self) -> int:
        """0 to `WORKERS` - 1."""
        return self._post.slot

    def order(self, words: str) -> None:
        """Let all other workers hear what this one has done and they are to do."""
        self._say(_ORDER + words.encode())

    @contextlib.asynccontextmanager
    async def serving(self, registry: CollectorRegistry, drain: Drain) -> AsyncIterator[None]:
        """Say that this worker serves, and go on saying so inside.

        Args:
            registry: This worker's metrics.
            drain: What retires when another worker has been started in this one's place.
        """
        self._registry, self._drain = registry, drain
        loop = asyncio.get_running_loop()
        self._control.setblocking(False)
        loop.add_reader(self._control, self._hear)
        self._publish()
        self._say(_SERVES)
        self._tasks = [
            asyncio.create_task(self._keep_publishing(), name="publish metrics"),
            asyncio.create_task(self._keep_beating(), name="tell the parent"),
        ]
        try:
            yield
        finally:
            self._stop_publishing()
            loop.remove_reader(self._control)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._control.close()

    def exposition(self) -> bytes:
        """Return the metrics of all workers in Prometheus's text format, each sample labelled with its `worker`."""
        merged: dict[str, Metric] = {}
        for slot, text in self._texts():
            for family in text_string_to_metric_families(text):
                kept = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    labels = {"worker": str(slot), **sample.labels}
                    kept.add_sample(sample.name, labels, sample.value, sample.timestamp, sample.exemplar)
        registry = CollectorRegistry()
        registry.register(_Families(list(merged.values())))
        return generate_latest(registry)

    def _texts(self) -> Iterator[tuple[int, str]]:
        for slot, sheet in enumerate(self._sheets):
            text = generate_latest(self._registry).decode() if slot == self._post.slot else sheet.read()
            if text is not None:
                yield slot, text

    def _hear(self) -> None:
        try:
            words = self._control.recv(_LONGEST_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        if not words:
            # The parent has gone without a word: nobody replaces this worker or tells it to stop.
            asyncio.get_running_loop().remove_reader(self._control)
            _log.error("the parent of this worker has gone: the worker ends too", slot=self._post.slot)
            os.kill(os.getpid(), signal.SIGTERM)
        elif words.startswith(_ORDER):
            if self.on_order is not None:
                self.on_order(words[1:].decode())
        elif words == _RETIRE and self._drain is not None and self.server is not None:
            self._stop_publishing()
            self._drain.retire(self.server)

    def _say(self, word: bytes) -> None:
        # Full: the parent is stopped, and has enough to hear when it goes on. Broken: see `_hear`.
        with contextlib.suppress(OSError):
            self._control.send(word)

    async def _keep_beating(self) -> None:
        while True:
            self._say(_TURNS)
            await asyncio.sleep(self._post.beat_s)

    async def _keep_publishing(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_EVERY_S)
            self._publish()

    def _publish(self) -> None:
        try:
            self._sheets[self._post.slot].write(generate_latest(self._registry))
        except OSError as cause:
            _log.warning("metrics of this worker are not published", reason=cause.strerror)

    def _stop_publishing(self) -> None:
        if self._tasks:
            self._tasks[0].cancel()


class _Families(Collector):
    """Metrics as they were read."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def share_of(total: int, num_workers: int) -> int:
    """Return what one worker gets of a limit of the service, rounded up; at least 1."""
    return max(1, -(-total // num_workers))


class _Child:
    """One worker, as its parent sees it."""

    def __init__(
        self,
        slot: int,
        process: asyncio.subprocess.Process,
        control: socket.socket,
        on_order: Callable[[_Child, bytes], None],
    ) -> None:
        self._on_order = on_order
        self.slot = slot
        self.pid = process.pid
        self.control = control
        self.is_retired = False
        self.serving_since: float | None = None
        self.heard_at = time.monotonic()
        self._process = process
        self._starting = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control, self._hear)
        self.end = asyncio.create_task(self._wait(), name=f"worker {slot}")

    @property
    def is_serving(self) -> bool:
        return self.serving_since is not None and not self.end.done()

    @property
    def served_s(self) -> float:
        return 0.0 if self.serving_since is None else time.monotonic() - self.serving_since

    async def starts(self) -> bool:
        """Wait until it serves; False: it has ended without."""
        await self._starting.wait()
        return self.is_serving

    def retire(self) -> None:
        self.is_retired = True
        with contextlib.suppress(OSError):  # it has just ended
            self.control.send(_RETIRE)

    def pass_on(self, words: bytes) -> None:
        with contextlib.suppress(OSError):  # it has just ended
            self.control.send(words)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _wait(self) -> int:
        code = await self._process.wait()
        self._loop.remove_reader(self.control)
        self.control.close()
        self._starting.set()
        return code

    def _hear(self) -> None:
        try:
            words = self.control.recv(_LONGEST_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        if not words:  # it is ending: `_wait` closes
            self._loop.remove_reader(self.control)
            return
        self.heard_at = time.monotonic()
        if words.startswith(_ORDER):
            self._on_order(self, words)
        elif words == _SERVES:
            self.serving_since = self.heard_at
            self._starting.set()


class Supervisor:
    """The parent of all workers: keeps each slot filled until it is told to stop."""

    def __init__(
        self,
        num_workers: int,
        command: Sequence[str],
        listeners: Sequence[socket.socket],
        *,
        grace_s: float,
        timeout_s: float,
    ) -> None:
        """Describe the service; `run` starts it.

        Args:
            num_workers: How many, >= 1.
            command: What a worker is started with; its post is added as the last word.
            listeners: Bound sockets that all workers listen on.
            grace_s: Longest drain of a worker, seconds.
            timeout_s: A worker whose event loop does not turn for so long is killed, seconds.
        """
        self._num_workers = num_workers
        self._command = command
        self._listeners = listeners
        self._grace_s = grace_s
        self._timeout_s = timeout_s
        self._sheets = [Sheet.new(f"jetface-metrics-{slot}") for slot in range(num_workers + 1)]
        self._alive: set[_Child] = set()
        self._successors: dict[int, _Child] = {}
        self._failed_starts = dict.fromkeys(range(num_workers), 0)
        self._num_replaced = dict.fromkeys(range(num_workers), 0)
        self._workers: dict[int, _Child] = {}
        self._stopping = asyncio.Event()
        self._restart_wanted = asyncio.Event()
        self._has_served = False
        self._exit_code = 0

    def run(self) -> int:
        """Run the service until SIGTERM or SIGINT, or until it cannot start; return its exit code, 0 or 3.

        SIGHUP restarts the workers one after the other; no request is lost by it.
        """
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._restart_wanted.set)
        self._count()
        keepers = [asyncio.create_task(self._keep(slot), name=f"slot {slot}") for slot in range(self._num_workers)]
        others = [
            asyncio.create_task(self._watch(), name="watch"),
            asyncio.create_task(self._restart(), name="restart"),
        ]
        stopping = asyncio.create_task(self._stopping.wait())
        # A keeper returns when the service stops; one that fails is a fault of ours, and must not leave a slot empty.
        await asyncio.wait([stopping, *keepers, *others], return_when=asyncio.FIRST_COMPLETED)
        self._stopping.set()
        for task in others:
            task.cancel()
        # The workers have them for as long as they answer; then nobody is left to wait for an answer in vain.
        for listener in self._listeners:
            listener.close()
        # Retired workers have this twice: once for those who are connected, once for those in flight.
        await self._end_all(self._grace_s * (2 if any(child.is_retired for child in self._alive) else 1) + 1.0)
        await asyncio.gather(*keepers, *others, stopping, return_exceptions=True)
        for task in (*keepers, *others):
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("the supervisor failed", exc_info=error)
                self._exit_code = 1
        for sheet in self._sheets:
            sheet.close()
        return self._exit_code

    def _on_stop(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            _log.info("stopping", reason=number.name, workers=len(self._alive))
        self._stopping.set()
        for child in self._alive:
            child.signal(signal.SIGTERM)

    async def _end_all(self, within_s: float) -> None:
        for child in self._alive:
            child.signal(signal.SIGTERM)
        ends = [child.end for child in self._alive]
        if not ends:
            return
        _, late = await asyncio.wait(ends, timeout=within_s)
        for child in [child for child in self._alive if child.end in late]:
            _log.error("worker did not end in time and is killed", slot=child.slot, pid=child.pid)
            child.signal(signal.SIGKILL)
        if late:
            await asyncio.wait(late)

    def _on_order(self, sender: _Child, words: bytes) -> None:
        for child in self._alive - {sender}:
            child.pass_on(words)

    async def _start(self, slot: int) -> _Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            post = Post(
                slot=slot,
                control=theirs.fileno(),
                listeners=tuple(listener.fileno() for listener in self._listeners),
                sheets=tuple(sheet.fd for sheet in self._sheets),
                beat_s=min(1.0, self._timeout_s / 4),
            )
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command, str(post), pass_fds=(post.control, *post.listeners, *post.sheets)
                )
            except BaseException:
                ours.close()
                raise
        child = _Child(slot, process, ours, self._on_order)
        self._alive.add(child)
        child.end.add_done_callback(lambda _: self._alive.discard(child))
        _log.info("worker started", slot=slot, pid=child.pid)
        if self._stopping.is_set():  # told to stop meanwhile
            child.signal(signal.SIGTERM)
        return child

    async def _keep(self, slot: int) -> None:
        child = await self._start(slot)
        while True:
            self._workers[slot] = child
            await asyncio.wait([child.end])
            if self._stopping.is_set():
                return
            pause_s = 0.0 if child.is_retired else self._on_end(child, child.end.result())
            successor = self._successors.pop(slot, None)
            if successor is None:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause_s)
                    return
                successor = await self._start(slot)
            child = successor

    def _on_end(self, child: _Child, code: int) -> float:
        """Tell of a worker that ended unasked; return the seconds until it is to be started again."""
        slot = child.slot
        self._sheets[slot].clear()
        self._num_replaced[slot] += 1
        self._count()
        self._has_served |= any(each.serving_since is not None for each in (child, *self._alive))
        self._failed_starts[slot] = 0 if child.served_s >= STEADY_S else self._failed_starts[slot] + 1
        failed = self._failed_starts[slot]
        pause_s = min(2.0 ** (failed - 1), LONGEST_PAUSE_S) if failed else 0.0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if child.serving_since is not None:
            _log.error("worker died and is replaced", slot=slot, pid=child.pid, reason=how, pause_s=pause_s)
            return pause_s
        is_hopeless = code == STARTUP_FAILURE and not self._has_served
        if is_hopeless or (failed >= MOST_FAILED_STARTS and not any(each.is_serving for each in self._alive)):
            _log.error("the service cannot start", slot=slot, pid=child.pid, reason=how, failed_starts=failed)
            self._exit_code = STARTUP_FAILURE
            self._stopping.set()
        else:
            _log.error(
                "worker could not start and is started again", slot=slot, pid=child.pid, reason=how, pause_s=pause_s
            )
        return pause_s

    async def _watch(self) -> None:
        """Kill workers that do not begin to serve, or whose event loop does not turn."""
        while True:
            await asyncio.sleep(min(1.0, self._timeout_s / 4))
            now = time.monotonic()
            for child in self._alive:
                limit_s = START_TIMEOUT_S if child.serving_since is None else self._timeout_s
                if now - child.heard_at > limit_s:
                    _log.error(
                        "worker is stuck and is killed", slot=child.slot, pid=child.pid, silent_s=round(limit_s, 1)
                    )
                    child.heard_at = now
                    child.signal(signal.SIGKILL)

    async def _restart(self) -> None:
        """At each SIGHUP start a worker beside each, one after the other, and let the old one retire."""
        while True:
            await self._restart_wanted.wait()
            self._restart_wanted.clear()
            _log.info("restarting the workers one by one")
            for slot in range(self._num_workers):
                old = self._workers.get(slot)
                if old is None or not await old.starts():
                    continue  # it is about to be started anew anyway
                new = self._successors[slot] = await self._start(slot)
                if not await new.starts():
                    if self._successors.get(slot) is new:
                        del self._successors[slot]
                    _log.error("the new worker did not start: the old ones serve on", slot=slot, code=new.end.result())
                    break
                old.retire()
                await asyncio.wait([old.end])
            else:
                _log.info("all workers are new")

    def _count(self) -> None:
        family = CounterMetricFamily(
            "jetface_worker_replacements", "Workers that ended unasked and were replaced.", labels=["worker"]
        )
        for slot, count in self._num_replaced.items():
            family.add_metric([str(slot)], count)
        registry = CollectorRegistry()
        registry.register(_Families([family]))
        self._sheets[-1].write(generate_latest(registry))
