"""Buffers, streams and graphs of `jetface.runtimes.cuda`, for real: answers, speeds and leaks."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import partial

import click
import numpy as np

from jetface.runtimes.cuda import Cuda, CudaError, Graph, Stream
from jetface.runtimes.gpu_buffers import DeviceBuffer, HostBuffer, InputBuffer, OutputBuffers, PinnedPool
from tests.device.gpu import DeviceName, describe, open_device
from tests.device.report import Report

_MIB = 2**20


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--rounds", default=200, help="How often things are made and closed to look for leaks.")
def main(device: DeviceName, rounds: int) -> None:
    """Check the cuda module; ends with 1 where something is wrong."""
    cuda = open_device(device, is_eager=False)
    report = Report("The cuda module", describe(cuda))
    for is_integrated in dict.fromkeys((cuda.properties().is_integrated, False, True)):
        where = "mapped" if is_integrated else "pinned and copied"
        report.add(f"wrong numbers after a round trip, {where}", wrong_after_round_trip(cuda, is_integrated), most=0)
    report.add("wrong numbers of items in pinned memory", wrong_after_pinned(cuda), most=0)
    report.add("wrong numbers after a graph of copies was launched", wrong_after_graph(cuda), most=0)
    report.add("errors that were not told", untold_errors(cuda), most=0)
    for name, gib_per_s in copy_speeds(cuda).items():
        report.add(f"copy of 64 MiB, {name}", gib_per_s, "GiB/s")
    report.add(f"memory not given back after {rounds} rounds", leaked_mib(cuda, rounds), "MiB", most=2)
    report.add("CPU time while 0.2 s of copies are waited for", waiting_cpu_share(cuda), "of a core", most=0.5)
    report.show()
    sys.exit(not report.is_met)


def wrong_after_round_trip(cuda: Cuda, is_integrated: bool) -> int:
    """Send rows of many sizes there, clear the host's side, fetch them; count what differs."""
    stream, wrong = Stream(cuda), 0
    for num_rows in (1, 3, 16, 64):
        shape = (64, 3, 112, 112)
        buffer = InputBuffer(cuda, shape, np.float32, is_integrated=is_integrated)
        rows = np.random.default_rng(num_rows).standard_normal((num_rows, *shape[1:])).astype(np.float32)
        buffer.upload(rows, stream)
        stream.synchronize()
        if not is_integrated:
            _return(cuda, buffer, stream, rows.nbytes)
        wrong += int((buffer.array[:num_rows] != rows).sum())
        buffer.close()
    stream.close()
    return wrong


def wrong_after_pinned(cuda: Cuda) -> int:
    """Send items from pinned memory among others that are not; count what differs."""
    stream, shape = Stream(cuda), (640, 640, 3)
    buffer = InputBuffer(cuda, (8, *shape), np.uint8, is_integrated=False)
    pool = PinnedPool(cuda, math.prod(shape), 5)
    rows = np.random.default_rng(0).integers(0, 256, (8, *shape), np.uint8)
    items = []
    for row in rows:
        pinned = pool.take(shape)
        items.append(row if pinned is None else pinned)
        items[-1][:] = row
    buffer.upload(items, stream)
    stream.synchronize()
    _return(cuda, buffer, stream, rows.nbytes)
    wrong = int((buffer.array != rows).sum())
    for held in (buffer, pool, stream):
        held.close()
    return wrong


def _return(cuda: Cuda, buffer: InputBuffer, stream: Stream, num_bytes: int) -> None:
    """Clear the host's side and bring there what the device has."""
    buffer.array[:] = 0
    cuda.copy_to_host(buffer.array.ctypes.data, buffer.address, num_bytes, stream.handle)
    stream.synchronize()


def wrong_after_graph(cuda: Cuda) -> int:
    """Capture a copy there and back, change what lies at its address, launch it; count what differs."""
    stream = Stream(cuda)
    source, target = HostBuffer(cuda, _MIB, is_mapped=False), HostBuffer(cuda, _MIB, is_mapped=False)
    device = DeviceBuffer(cuda, _MIB)

    def copies() -> None:
        cuda.copy_to_device(device.address, source.address, _MIB, stream.handle)
        cuda.copy_to_host(target.address, device.address, _MIB, stream.handle)

    graph = Graph.capture(cuda, stream, copies)
    wrong = 0
    for turn in range(1, 4):
        source.view((_MIB,), np.uint8)[:] = turn
        graph.launch(stream)
        stream.synchronize()
        wrong += int((target.view((_MIB,), np.uint8) != turn).sum())
    for held in (graph, source, target, device, stream):
        held.close()
    return wrong


def untold_errors(cuda: Cuda) -> int:
    """Ask for what cannot be had; count what was answered as if it could."""
    stream = Stream(cuda)
    untold = 0
    for fails in (lambda: Graph.capture(cuda, stream, stream.synchronize), lambda: cuda.malloc(1 << 60)):
        try:
            fails()
        except CudaError:
            continue
        untold += 1
    stream.synchronize()
    stream.close()
    return untold


def copy_speeds(cuda: Cuda) -> dict[str, float]:
    """Return GiB/s by direction, of pinned memory."""
    num_bytes, times = 64 * _MIB, 10
    stream = Stream(cuda)
    host, device = HostBuffer(cuda, num_bytes, is_mapped=False), DeviceBuffer(cuda, num_bytes)
    speeds = {}
    copies: dict[str, Callable[[], None]] = {
        "to the device": partial(cuda.copy_to_device, device.address, host.address, num_bytes, stream.handle),
        "to the host": partial(cuda.copy_to_host, host.address, device.address, num_bytes, stream.handle),
    }
    for name, copy in copies.items():
        copy()
        stream.synchronize()
        started = time.perf_counter()
        for _ in range(times):
            copy()
        stream.synchronize()
        speeds[name] = times * num_bytes / 2**30 / (time.perf_counter() - started)
    for held in (host, device, stream):
        held.close()
    return speeds


def leaked_mib(cuda: Cuda, rounds: int) -> float:
    """Return how much less memory is free after many rounds than after a few."""

    def once() -> None:
        stream = Stream(cuda)
        outputs = OutputBuffers(cuda, [((8, _MIB), np.dtype(np.uint8))], 8, is_integrated=False)
        graph = Graph.capture(cuda, stream, lambda: outputs.fetch(8, stream))
        graph.launch(stream)
        stream.synchronize()
        for held in (graph, outputs, stream):
            held.close()

    for _ in range(min(20, rounds)):
        once()
    free_bytes = cuda.properties().free_bytes
    for _ in range(rounds):
        once()
    return (free_bytes - cuda.properties().free_bytes) / _MIB


def waiting_cpu_share(cuda: Cuda) -> float:
    """Return the CPU time of this thread over the time it waited: near 0 where waits sleep, 1 where they spin."""
    num_bytes = 64 * _MIB
    stream, host, device = Stream(cuda), HostBuffer(cuda, num_bytes, is_mapped=False), DeviceBuffer(cuda, num_bytes)
    waited_s = cpu_s = 0.0
    while waited_s < 0.2:
        for _ in range(8):
            cuda.copy_to_device(device.address, host.address, num_bytes, stream.handle)
        started, cpu_started = time.perf_counter(), time.thread_time()
        stream.synchronize()
        waited_s += time.perf_counter() - started
        cpu_s += time.thread_time() - cpu_started
    for held in (host, device, stream):
        held.close()
    return cpu_s / waited_s


if __name__ == "__main__":
    main()
