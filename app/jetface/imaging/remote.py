"""Pictures that lie elsewhere: behind a URL, or in the folder of local pictures."""

from __future__ import annotations

from functools import partial

from jetface.errors import UrlRefusedError
from jetface.imaging.budget import Share
from jetface.imaging.fetch import UrlFetcher
from jetface.imaging.folder import PictureFolder
from jetface.imaging.sources import RemotePicture
from jetface.threads import Threads


class RemotePictures:
    """Gets a picture from where its URL or path says, as far as that is turned on."""

    def __init__(self, threads: Threads, *, urls: UrlFetcher | None, folder: PictureFolder | None) -> None:
        """Create the two ways.

        Args:
            threads: Where files are read; stay the caller's.
            urls: Fetches URLs; None refuses them.
            folder: Reads local files; None refuses them.
        """
        self._threads = threads
        self._urls = urls
        self._folder = folder

    async def fetch(self, picture: RemotePicture, share: Share, *, deadline: float) -> bytes:
        """Get a file, whose bytes are counted in `share`: what has a scheme is a URL, all else a path.

        Raises:
            UrlRefusedError: Turned off, not allowed, not to be had, too long or too slow.
            QueueFullError: There was no room for its bytes.
            DeadlineExceededError: The deadline passed.
        """
        if "://" in picture.url:
            if self._urls is None:
                raise UrlRefusedError("Fetching pictures by URL is turned off.")
            return await self._urls.fetch(picture, share, deadline=deadline)
        if self._folder is None:
            raise UrlRefusedError("Reading pictures from a folder is turned off.")
        num_bytes = await self._threads.call(partial(self._folder.length, picture.url), deadline=deadline)
        await share.grow(num_bytes, deadline=deadline)
        return await self._threads.call(partial(self._folder.read, picture.url), deadline=deadline)

    async def aclose(self) -> None:
        """Close idle connections."""
        if self._urls is not None:
            await self._urls.aclose()
