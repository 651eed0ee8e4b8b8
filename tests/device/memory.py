"""Whether memory, the GPU's and the host's, stays where it is over many requests of many kinds."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from jetface.runtimes.cuda import Cuda
from tests.bench.client import post, read_answer
from tests.bench.scenarios import Target
from tests.device.gpu import describe, open_device
from tests.device.pictures import mixed_requests
from tests.device.report import Report
from tests.device.serving import port_of, service_options, serving, settings_of

_CLIENTS = 16


@click.command()
@service_options
@click.option("--first", default=500, help="Requests after which memory should have stopped growing.")
@click.option("--requests", default=5000, help="Requests in all.")
def main(**options: Any) -> None:
    """Measure memory; ends with 1 where it grew."""
    cuda = open_device(options["device"])
    report = Report("Memory over many requests", describe(cuda))
    settings = settings_of(options)
    bodies = [post("/extract?threshold=0.5", body, kind) for kind, body in mixed_requests(options["images"])]
    with tempfile.TemporaryDirectory() as name, serving(Path(name), settings) as server:
        target = Target(port_of(server), server.process.pid)
        answered = asyncio.run(send(target.port, bodies, options["first"]))
        gpu_bytes, host_bytes = used_bytes(cuda), target.rss_bytes()
        answered += asyncio.run(send(target.port, bodies, options["requests"] - options["first"]))
        if options["device"] == "cuda":
            report.add("GPU memory after all over that after the first", used_bytes(cuda) / gpu_bytes, most=1.02)
            report.add("GPU memory of all processes", used_bytes(cuda) / 2**20, "MiB")
        report.add("resident memory after all over that after the first", target.rss_bytes() / host_bytes)
        report.add("resident memory", target.rss_bytes() / 2**20, "MiB")
        report.add("requests answered", answered, least=options["requests"])
    report.show()
    sys.exit(not report.is_met)


def used_bytes(cuda: Cuda) -> int:
    """Return how much of the device's memory is taken, by whomever."""
    found = cuda.properties()
    return found.total_bytes - found.free_bytes


async def send(port: int, requests: list[bytes], count: int) -> int:
    """Send requests in turn from several clients; return how many were answered, whatever the status."""
    numbers = iter(range(count))
    answered = 0

    async def client() -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
        for number in numbers:
            writer.write(requests[number % len(requests)])
            _, _, closes = await read_answer(reader)
            answered += 1
            if closes:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
        writer.close()

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    return answered


if __name__ == "__main__":
    main()
