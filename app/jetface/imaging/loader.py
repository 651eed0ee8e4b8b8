"""From a source to pixels, within limits: bytes, pixels at once, time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np

from jetface.device.machine import trim_memory
from jetface.domain import Image
from jetface.errors import ImageTooLargeError, UrlRefusedError
from jetface.imaging.budget import Budget, ByteBudget, Share
from jetface.imaging.decode import Decoder
from jetface.imaging.formats import has_quick_header, sniff
from jetface.imaging.header import PictureHeader
from jetface.imaging.sources import Base64Picture, EncodedPicture, PictureSource, RemotePicture, decode_base64
from jetface.metrics import Metrics
from jetface.threads import Threads

_NO_PIXELS: Image = np.empty((0, 0, 3), np.uint8)

OnDecoded: TypeAlias = Callable[[Image], None]
"""What is done with pixels where they were decoded."""

_LARGE_PIXELS = 8_000_000
"""24 MiB: below, trimming costs more than it gives back."""

_SHORT_BYTES = 2**18
"""A file of a quarter of a megabyte has its header read in less time than a hop to another thread takes: 8 us a JPEG,
0.1 ms a PNG with its checksums."""


class Fetcher(Protocol):
    """Gets the bytes of a picture that lies elsewhere."""

    async def fetch(self, picture: RemotePicture, share: Share, *, deadline: float) -> bytes:
        """Fetch a file, whose bytes are counted in `share` as they come.

        Raises:
            UrlRefusedError: Not allowed, not to be had, too long.
            DeadlineExceededError: The deadline passed.
        """
        ...

    async def aclose(self) -> None:
        """End what is open."""
        ...


class LoadedPicture:
    """A decoded picture whose pixels count against the budget until its block is left. Belongs to one task."""

    def __init__(self, pixels: Image, budget: Budget, held_pixels: int) -> None:
        self.pixels = pixels
        """(H, W, 3) uint8 BGR, EXIF orientation applied."""
        self.source_hw: tuple[int, int] = (pixels.shape[0], pixels.shape[1])
        """Height and width; known when the pixels are gone, too."""
        self.rotation = 0
        """Degrees clockwise by which it has to be turned for its faces to stand upright: 0, 90, 180, 270."""
        self._budget = budget
        self._held_pixels = held_pixels

    def release(self) -> None:
        """Drop the pixels and give their part of the budget back; called by the loader."""
        self.pixels = _NO_PIXELS
        self._budget.release(self._held_pixels)
        self._held_pixels = 0


class PictureLoader:
    """Turns sources into pictures. All methods belong to one event loop's thread."""

    def __init__(  # noqa: PLR0913 - the limits, by name
        self,
        threads: Threads,
        *,
        max_image_pixels: int,
        budget_pixels: int,
        max_decode_pixels: int | None = None,
        accept_tiff: bool = False,
        metrics: Metrics,
        decoder: Decoder | None = None,
        fetcher: Fetcher | None = None,
        byte_budget: ByteBudget | None = None,
    ) -> None:
        """Create a loader.

        Args:
            threads: Where pictures are decoded; stay the caller's.
            max_image_pixels: Most pixels a picture's header may claim.
            budget_pixels: Most pixels decoded at once.
            max_decode_pixels: Most that one decode may hold while it works, in pixels of three bytes; None: no limit.
            accept_tiff: Whether TIFF is read.
            metrics: Shows the pixels in flight.
            decoder: What decodes; None chooses the best that is installed.
            fetcher: What fetches pictures that lie elsewhere; None refuses them.
            byte_budget: What counts fetched files, and bodies beside them; None: as many as come.
        """
        self.decoder = decoder or Decoder.best()
        self.budget = Budget(budget_pixels)
        self.byte_budget = byte_budget or ByteBudget(sys.maxsize)
        self._threads = threads
        # A picture larger than the budget could be decoded only by overdrawing it.
        self._max_pixels = min(max_image_pixels, budget_pixels)
        self._max_decode_pixels = max_decode_pixels
        self._sniff = partial(sniff, max_pixels=self._max_pixels, accept_tiff=accept_tiff)
        self._fetcher = fetcher
        metrics.watch(metrics.decode_pixels, lambda: self.budget.held)
        metrics.decode_pixels_limit.set(budget_pixels)

    def load(
        self,
        source: PictureSource,
        *,
        deadline: float,
        on_decoded: OnDecoded | None = None,
    ) -> AbstractAsyncContextManager[LoadedPicture]:
        """Fetch a picture if need be and decode it; the block holds its part of the budget.

        Args:
            source: The picture.
            deadline: `loop.time()` after which it is of no use.
            on_decoded: Called with the pixels on the thread that decoded them.

        Returns:
            What yields the decoded picture.

        Raises:
            ImageDecodeError: Not base64, not a picture, truncated, damaged.
            ImageTooLargeError: The header claims too many pixels.
            UrlRefusedError: It may not or cannot be fetched.
            DeadlineExceededError: The deadline passed.
        """
        return _Loading(partial(self._open, source, deadline, on_decoded))

    @asynccontextmanager
    async def fetched(self, source: PictureSource, *, deadline: float) -> AsyncIterator[EncodedPicture]:
        """Fetch a picture's bytes, or decode them from base64; the block holds their part of the budget.

        Args:
            source: The picture.
            deadline: `loop.time()` after which it is of no use.

        Raises:
            ImageDecodeError: Not base64.
            UrlRefusedError: It may not or cannot be fetched, or others need its room.
            DeadlineExceededError: The deadline passed.
        """
        if isinstance(source, RemotePicture):
            async with self._fetching(source, deadline) as picture:
                yield picture
        elif isinstance(source, Base64Picture):
            yield EncodedPicture(await self._threads.call(partial(decode_base64, source.text), deadline=deadline))
        else:
            yield source

    async def aclose(self) -> None:
        """Close the fetcher; the threads stay the caller's."""
        if self._fetcher is not None:
            await self._fetcher.aclose()

    async def _open(self, source: PictureSource, deadline: float, on_decoded: OnDecoded | None) -> LoadedPicture:
        if not isinstance(source, RemotePicture):
            return await self._decode(source, deadline, on_decoded)
        async with self._fetching(source, deadline) as picture:
            return await self._decode(picture, deadline, on_decoded)

    @asynccontextmanager
    async def _fetching(self, source: RemotePicture, deadline: float) -> AsyncIterator[EncodedPicture]:
        if self._fetcher is None:
            raise UrlRefusedError("Fetching pictures by URL is turned off.")
        share = self.byte_budget.share(lambda: fetching.cancel())  # noqa: PLW0108 - it is made below
        fetching = asyncio.ensure_future(self._fetcher.fetch(source, share, deadline=deadline))
        try:
            picture = EncodedPicture(await fetching)
            share.complete()
            yield picture
        except asyncio.CancelledError:
            if share.has_given_way:
                raise UrlRefusedError("The picture came too slowly while others waited for room.") from None
            raise
        finally:
            share.close()

    async def _decode(
        self, source: EncodedPicture | Base64Picture, deadline: float, on_decoded: OnDecoded | None
    ) -> LoadedPicture:
        data, header = await self._read(source, deadline)
        cost = self.decoder.cost(header)
        if self._max_decode_pixels is not None and cost.working_pixels > self._max_decode_pixels:
            raise ImageTooLargeError(
                f"Decoding this {header.format.upper()} takes the memory of {cost.working_pixels} pixels; "
                f"this service has that of {self._max_decode_pixels} for it.",
                working_pixels=cost.working_pixels,
                max_decode_pixels=self._max_decode_pixels,
            )
        # A decode that costs more than the whole budget waits until it is alone.
        working_pixels = min(cost.working_pixels, self.budget.capacity)
        kept_pixels = min(cost.kept_pixels, working_pixels)
        await self.budget.acquire(working_pixels, deadline=deadline)

        def decode() -> Image:
            image = self.decoder.decode(data, header)
            if cost.working_pixels - cost.kept_pixels > _LARGE_PIXELS:
                # Each thread's arena would keep what the decoder had beside the picture.
                trim_memory()
            if on_decoded is not None:
                on_decoded(image)
            return image

        image = await self._threads.call(
            decode, deadline=deadline, on_failure=partial(self.budget.release, working_pixels)
        )
        self.budget.release(working_pixels - kept_pixels)
        return LoadedPicture(image, self.budget, kept_pixels)

    async def _read(self, encoded: EncodedPicture | Base64Picture, deadline: float) -> tuple[bytes, PictureHeader]:
        if isinstance(encoded, EncodedPicture):
            data = encoded.data
            if len(data) <= _SHORT_BYTES or has_quick_header(data):
                return data, self._sniff(data)

        def unwrap() -> tuple[bytes, PictureHeader]:
            data = encoded.data if isinstance(encoded, EncodedPicture) else decode_base64(encoded.text)
            return data, self._sniff(data)

        return await self._threads.call(unwrap, deadline=deadline)


class _Loading(AbstractAsyncContextManager[LoadedPicture]):
    """The block in which a picture is held. A class: a generator costs the event loop twice as much."""

    def __init__(self, load: Callable[[], Awaitable[LoadedPicture]]) -> None:
        self._load = load

    async def __aenter__(self) -> LoadedPicture:
        self._picture = await self._load()
        return self._picture

    async def __aexit__(self, *_: object) -> None:
        self._picture.release()
