"""What a picture costs between the API and the graphs: queues, threads, metrics, the pictures' places in memory.

Models answer at once with one face, so that what is left is the service's own. Prints CPU microseconds a picture: of
the event loop's thread, and of all others together. Run with `python -m tests.bench.pipeline`; `--real-decoder` adds
what libturbojpeg and fresh memory cost.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import click
import numpy as np
import structlog

from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.domain import Detections, Embedding, ExtractOptions, Image
from jetface.heads.canvases import item_key
from jetface.imaging.decode import Decoder
from jetface.imaging.header import PictureHeader
from jetface.imaging.loader import PictureLoader
from jetface.imaging.sources import EncodedPicture
from jetface.metrics import Metrics
from jetface.models.loaded import LoadedModel, LoadProgress
from jetface.models.store import ModelStore
from jetface.pipeline.attributes import Attributes
from jetface.pipeline.describer import Describer, Recognizer
from jetface.pipeline.detector import Detector, DetectorOptions
from jetface.pipeline.extract import Extractor
from jetface.pipeline.pictures import WorkPool
from jetface.registry import ModelSpec, default_registry_dir, read_registry
from tests.bench.host import picture

_DETECTOR, _RECOGNIZER = "det_500m", "w600k_mbf_dequantized"
_FACE = Detections(
    np.array([[300, 200, 340, 250]], np.float32),
    np.array([0.9], np.float32),
    np.array([[[310, 218], [330, 218], [320, 228], [312, 238], [328, 238]]], np.float32),
)
_EMBEDDING = Embedding(np.ones(512, np.float32), 20.0)


class ReadyDecoder(Decoder):
    """Has every picture decoded already."""

    def __init__(self) -> None:
        super().__init__()
        self._pixels = np.zeros((886, 1280, 3), np.uint8)

    def decode(self, data: bytes, header: PictureHeader) -> Image:  # noqa: ARG002 - the decoder's
        """Return a black picture."""
        return self._pixels


def build(metrics: Metrics, pool: WorkPool, *, real_decoder: bool, run_s: float = 0.0) -> Extractor:
    """Return the pipeline a GPU would have, its models answering after `run_s`."""

    async def load(spec: ModelSpec, _progress: LoadProgress) -> LoadedModel[Any, Any]:
        answer = (_FACE,) if spec.name == _DETECTOR else _EMBEDDING

        def run(items: Sequence[Any]) -> list[Any]:
            if run_s:
                time.sleep(run_s)
            return [answer] * len(items)

        batcher: Batcher[Any, Any] = Batcher(
            spec.name,
            [Lane(run=run), Lane(run=run)],
            max_batch=32,
            max_waiting=10_000,
            key=item_key,
            metrics=metrics,
        )
        return LoadedModel(spec=spec, backend="none", batcher=batcher)

    store = ModelStore(read_registry((default_registry_dir(),)), load, metrics)
    loader = PictureLoader(
        pool.threads,
        max_image_pixels=50_000_000,
        budget_pixels=200_000_000,
        metrics=metrics,
        decoder=None if real_decoder else ReadyDecoder(),
    )
    return Extractor(
        loader,
        Detector(store, _DETECTOR, DetectorOptions(rectangular=False), pool),
        Describer(Recognizer(store, _RECOGNIZER), Attributes(store, {}, pool), pool),
        pool,
        metrics,
        store=store,
    )


async def measure(extractor: Extractor, *, callers: int, seconds: float) -> tuple[float, float]:
    """Return CPU microseconds a picture: of this thread, and of all others."""
    source, options = EncodedPicture(picture()), ExtractOptions(score_threshold=0.5)
    loop = asyncio.get_running_loop()
    done = 0

    async def call(until: float) -> None:
        nonlocal done
        while loop.time() < until:
            (result,) = await extractor.extract([source], options, deadline=loop.time() + 60)
            if not result.faces:
                raise RuntimeError(f"no face: {result.error}")
            done += 1

    for duration in (0.3, seconds):
        done = 0
        loop_s, all_s = time.thread_time(), time.process_time()
        until = loop.time() + duration
        await asyncio.gather(*(call(until) for _ in range(callers)))
        loop_s, all_s = time.thread_time() - loop_s, time.process_time() - all_s
    return 1e6 * loop_s / done, 1e6 * (all_s - loop_s) / done


@click.command()
@click.option("--callers", default=16)
@click.option("--seconds", default=2.0)
@click.option("--rounds", default=5)
@click.option("--threads", default=4, help="Of the work pool.")
@click.option("--run-ms", default=0.0, help="What a run of a model takes.")
@click.option("--real-decoder", is_flag=True)
def main(callers: int, seconds: float, rounds: int, threads: int, run_ms: float, *, real_decoder: bool) -> None:
    """Measure what the pipeline spends on a picture, several times; prints each round and the medians."""

    async def once() -> tuple[float, float]:
        pool = WorkPool(threads)
        try:
            extractor = build(Metrics(), pool, real_decoder=real_decoder, run_s=run_ms / 1e3)
            return await measure(extractor, callers=callers, seconds=seconds)
        finally:
            pool.close()

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    found = []
    for _ in range(rounds):
        found.append(asyncio.run(once()))
        sys.stdout.write("event loop {:.0f} us, other threads {:.0f} us\n".format(*found[-1]))
    loop_us, others_us = (statistics.median(column) for column in zip(*found, strict=True))
    sys.stdout.write(f"median: event loop {loop_us:.0f} us, other threads {others_us:.0f} us\n")


if __name__ == "__main__":
    main()
