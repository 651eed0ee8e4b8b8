"""From a source to pixels, within limits."""

from __future__ import annotations

import asyncio
import base64
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from jetface.domain import Image
from jetface.errors import DeadlineExceededError, ImageDecodeError, ImageTooLargeError, UrlRefusedError
from jetface.imaging.budget import ByteBudget, Share
from jetface.imaging.decode import Decoder
from jetface.imaging.header import PictureHeader
from jetface.imaging.loader import PictureLoader
from jetface.imaging.sources import Base64Picture, EncodedPicture, PictureSource, RemotePicture
from jetface.metrics import Metrics
from jetface.threads import Threads
from tests.support.encoded import encode, png_bomb, smooth_image
from tests.support.pictures import decode_image

IMAGE = smooth_image(120, 160)
PNG = encode(".png", IMAGE)
MIB = 2**20


class SlowDecoder(Decoder):
    """Decodes when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def decode(self, data: bytes, header: PictureHeader) -> Image:
        """Wait, then decode."""
        self.begun.set()
        self.may_end.wait(10)
        return super().decode(data, header)


class OneFile:
    """A fetcher that has one file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.is_open = True

    async def fetch(self, picture: RemotePicture, share: Share, *, deadline: float) -> bytes:
        """Return it."""
        assert deadline > asyncio.get_running_loop().time()
        assert picture.url == "http://a/b.png"
        await share.grow(len(self.data), deadline=deadline)
        return self.data

    async def aclose(self) -> None:
        """Remember."""
        self.is_open = False


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Return two threads."""
    with Threads(2, "test") as pool:
        yield pool


@pytest.fixture
def metrics() -> Metrics:
    """Return fresh metrics."""
    return Metrics()


@pytest.fixture
async def loader(threads: Threads, metrics: Metrics) -> AsyncIterator[PictureLoader]:
    """Return a loader with the default limits; nothing may be left in its budget."""
    made = PictureLoader(threads, max_image_pixels=50_000_000, budget_pixels=100_000_000, metrics=metrics)
    yield made
    assert made.budget.held == 0
    await made.aclose()


def in_s(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


@pytest.mark.parametrize(
    "source",
    [EncodedPicture(PNG), Base64Picture(base64.b64encode(PNG).decode())],
    ids=["bytes", "base64"],
)
async def test_every_kind_of_source_becomes_pixels(loader: PictureLoader, source: PictureSource) -> None:
    async with loader.load(source, deadline=in_s()) as picture:
        assert np.array_equal(picture.pixels, IMAGE)
        assert picture.source_hw == (120, 160)


async def test_a_remote_picture_is_fetched(threads: Threads, metrics: Metrics) -> None:
    fetcher = OneFile(PNG)
    loader = PictureLoader(threads, max_image_pixels=10**6, budget_pixels=10**6, metrics=metrics, fetcher=fetcher)
    async with loader.load(RemotePicture("http://a/b.png"), deadline=in_s()) as picture:
        assert np.array_equal(picture.pixels, IMAGE)
    await loader.aclose()
    assert not fetcher.is_open


async def test_a_fetched_file_counts_until_it_is_decoded(threads: Threads, metrics: Metrics) -> None:
    budget = ByteBudget(2**20)
    seen: list[int] = []
    data = PNG + bytes(300_000)
    loader = PictureLoader(
        threads, max_image_pixels=10**6, budget_pixels=10**6, metrics=metrics, fetcher=OneFile(data), byte_budget=budget
    )
    remote = RemotePicture("http://a/b.png")
    async with loader.load(remote, deadline=in_s(), on_decoded=lambda _: seen.append(budget.held)):
        assert seen == [len(data)]
        assert budget.held == 0


@pytest.mark.slow
async def test_a_file_that_comes_slowly_makes_way_and_fails_its_slot(threads: Threads, metrics: Metrics) -> None:
    class Silent(OneFile):
        """Stops after a file's length."""

        async def fetch(self, picture: RemotePicture, share: Share, *, deadline: float) -> bytes:
            """Never end."""
            await super().fetch(picture, share, deadline=deadline)
            await asyncio.sleep(60)
            return b""

    budget = ByteBudget(2**20)
    loader = PictureLoader(
        threads, max_image_pixels=10**6, budget_pixels=10**6, metrics=metrics, fetcher=Silent(bytes(2**20)),
        byte_budget=budget,
    )  # fmt: skip

    async def load() -> None:
        async with loader.load(RemotePicture("http://a/b.png"), deadline=in_s()):
            pass

    task = asyncio.create_task(load())
    await asyncio.sleep(0.05)
    assert budget.held == 2**20
    await budget.share(lambda: None).grow(2**19, deadline=in_s())
    with pytest.raises(UrlRefusedError, match="slowly"):
        await task
    assert budget.held == 2**19


async def test_without_a_fetcher_a_remote_picture_is_refused(loader: PictureLoader) -> None:
    with pytest.raises(UrlRefusedError, match="turned off"):
        async with loader.load(RemotePicture("http://a/b.png"), deadline=in_s()):
            pass


async def test_the_block_holds_its_pixels_and_the_metric_shows_them(loader: PictureLoader, metrics: Metrics) -> None:
    def shown() -> float | None:
        return metrics.registry.get_sample_value("jetface_decode_pixels_in_flight")

    async with loader.load(EncodedPicture(PNG), deadline=in_s()):
        assert shown() == 120 * 160
    assert shown() == 0


async def test_an_error_in_the_block_gives_the_pixels_back(loader: PictureLoader) -> None:
    with pytest.raises(KeyError):
        async with loader.load(EncodedPicture(PNG), deadline=in_s()):
            raise KeyError
    assert loader.budget.held == 0


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (Base64Picture("%"), ImageDecodeError),
        (EncodedPicture(b""), ImageDecodeError),
        (EncodedPicture(PNG[:-30]), ImageDecodeError),
        (EncodedPicture(encode(".bmp", IMAGE)[:-9]), ImageDecodeError),
    ],
    ids=["base64", "empty", "header", "pixels"],
)
async def test_what_cannot_be_decoded_leaves_nothing_behind(
    loader: PictureLoader, source: PictureSource, error: type[Exception]
) -> None:
    with pytest.raises(error):
        async with loader.load(source, deadline=in_s()):
            pass
    await asyncio.sleep(0.01)
    assert loader.budget.held == 0


async def test_a_picture_above_the_limit_or_the_whole_budget_is_refused(threads: Threads, metrics: Metrics) -> None:
    for limits in ((120 * 160 - 1, 10**6), (10**6, 120 * 160 - 1)):
        loader = PictureLoader(threads, max_image_pixels=limits[0], budget_pixels=limits[1], metrics=metrics)
        with pytest.raises(ImageTooLargeError):
            async with loader.load(EncodedPicture(PNG), deadline=in_s()):
                pass


async def test_a_picture_whose_decode_costs_more_than_the_budget_is_decoded_alone(
    threads: Threads, metrics: Metrics
) -> None:
    loader = PictureLoader(threads, max_image_pixels=10**6, budget_pixels=120 * 160, metrics=metrics)

    async def load() -> int:
        async with loader.load(EncodedPicture(PNG), deadline=in_s()) as picture:
            return picture.pixels.size

    assert await asyncio.gather(*(load() for _ in range(5))) == [IMAGE.size] * 5


class TestLeaving:
    """Callers that do not wait."""

    async def test_a_deadline_in_the_past_decodes_nothing(self, loader: PictureLoader) -> None:
        with pytest.raises(DeadlineExceededError):
            async with loader.load(EncodedPicture(PNG), deadline=in_s(-1)):
                pass

    @pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "late"])
    async def test_the_budget_is_given_back_when_the_decode_has_ended(
        self, threads: Threads, metrics: Metrics, is_cancelled: bool
    ) -> None:
        decoder = SlowDecoder()
        loader = PictureLoader(threads, max_image_pixels=10**6, budget_pixels=10**6, metrics=metrics, decoder=decoder)

        async def load() -> None:
            async with loader.load(EncodedPicture(PNG), deadline=in_s(30.0 if is_cancelled else 0.2)):
                pass

        task = asyncio.create_task(load())
        await asyncio.to_thread(decoder.begun.wait, 10)
        if is_cancelled:
            task.cancel()
        with pytest.raises((asyncio.CancelledError, DeadlineExceededError)):
            await task
        assert loader.budget.held == 2 * 120 * 160
        decoder.may_end.set()
        while loader.budget.held:  # noqa: ASYNC110 - the budget has no event, and needs none
            await asyncio.sleep(0.001)


@pytest.mark.slow
async def test_four_bombs_at_once_stay_within_memory_that_is_given_back(loader: PictureLoader) -> None:
    """131 kB each, 39.7 million pixels each: 119 MB decoded, twice that while OpenCV copies."""
    bomb = png_bomb(6300)
    assert len(bomb) < 132_000
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    peak = 0
    is_over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    async def load() -> None:
        async with loader.load(EncodedPicture(bomb), deadline=in_s(60.0)) as picture:
            assert picture.pixels.shape == (6300, 6300, 3)
            await asyncio.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        await asyncio.gather(*(load() for _ in range(4)))
    finally:
        is_over.set()
        watcher.join()
    assert peak - before < 300 * MIB
    assert process.memory_info().rss - before < 50 * MIB


async def test_every_picture_of_the_shared_folder_loads(loader: PictureLoader, shared_images: Path) -> None:
    """Pixels are OpenCV's own, whatever decoded them."""
    for data in [path.read_bytes() for path in sorted(shared_images.glob("*.*g"))]:  # noqa: ASYNC240 - a test
        async with loader.load(EncodedPicture(data), deadline=in_s()) as picture:
            expected = decode_image(data)
            assert picture.pixels.shape == expected.shape
            assert np.abs(picture.pixels.astype(int) - expected).max() <= 4
