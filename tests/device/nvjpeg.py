"""Decoding on the GPU against decoding on the host's cores: pictures a second, and how far the pixels agree."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import click
import numpy as np

from jetface.device.limits import usable_cores
from jetface.imaging.decode import Decoder, NvJpeg
from jetface.imaging.formats import sniff
from tests.device.pictures import one_face_jpeg
from tests.device.report import Report
from tests.support.fake_nvimgcodec import Codec


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--images", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seconds", default=5.0, show_default=True)
def main(*, device: str, images: Path, seconds: float) -> None:
    """Compare nvImageCodec with what decodes on this host's cores: libjpeg-turbo."""
    jpeg = one_face_jpeg(images)
    header = sniff(jpeg, max_pixels=10**8)
    stored_hw = header.stored_hw
    decoder = Decoder.best()
    on_cpu = partial(decoder.decode, jpeg, header)
    on_gpu = partial(NvJpeg(Codec() if device == "cpu" else None).decode, jpeg, stored_hw)
    cores = usable_cores()
    report = Report("JPEG on the GPU", f"{device}, {cores} cores, {stored_hw[1]}x{stored_hw[0]}")
    difference = np.abs(np.asarray(on_gpu(), np.int16) - on_cpu())
    report.add("mean difference of a value, of 255", float(difference.mean()))
    for num_threads in sorted({1, cores}):
        with ThreadPoolExecutor(num_threads) as pool:
            rates = {
                name: _rate(pool, decode, num_threads, seconds) for name, decode in (("cpu", on_cpu), ("gpu", on_gpu))
            }
        report.add(f"{decoder.name}, {num_threads} threads", rates["cpu"], "/s")
        report.add(f"nvImageCodec, {num_threads} threads", rates["gpu"], "/s")
        report.add(f"ratio, {num_threads} threads", rates["gpu"] / rates["cpu"])
    report.show()


def _rate(pool: ThreadPoolExecutor, decode: Callable[[], object], num_threads: int, seconds: float) -> float:
    end = time.perf_counter() + seconds

    def count() -> int:
        done = 0
        while time.perf_counter() < end:
            decode()
            done += 1
        return done

    for _ in range(2):
        decode()
    return sum(call.result() for call in [pool.submit(count) for _ in range(num_threads)]) / seconds


if __name__ == "__main__":
    main()
