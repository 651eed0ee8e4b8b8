"""Pictures that lie elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetface.errors import DeadlineExceededError, QueueFullError, UrlRefusedError
from jetface.imaging.budget import ByteBudget, Share
from jetface.imaging.remote import HostPolicy, PictureFolder, RemotePictures, UrlFetcher
from jetface.imaging.sources import RemotePicture
from jetface.threads import Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Return one thread."""
    with Threads(1, "test") as pool:
        yield pool


def in_s(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def share() -> Share:
    return ByteBudget(2**20).share(lambda: None)


@pytest.mark.parametrize("url", ["http://a.test/b.jpg", "https://a.test/", "file:///etc/passwd", "a.jpg", "/a.jpg", ""])
async def test_turned_off_everything_is_refused(threads: Threads, url: str) -> None:
    pictures = RemotePictures(threads, urls=None, folder=None)
    with pytest.raises(UrlRefusedError, match="turned off"):
        await pictures.fetch(RemotePicture(url), share(), deadline=in_s())
    await pictures.aclose()


async def test_a_path_is_read_and_a_url_is_fetched(threads: Threads, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"picture")
    pictures = RemotePictures(
        threads, urls=UrlFetcher(HostPolicy.listed([])), folder=PictureFolder(tmp_path, max_bytes=100)
    )
    assert await pictures.fetch(RemotePicture("a.jpg"), share(), deadline=in_s()) == b"picture"
    with pytest.raises(UrlRefusedError, match="not on the list"):
        await pictures.fetch(RemotePicture("http://a.test/a.jpg"), share(), deadline=in_s())
    with pytest.raises(UrlRefusedError, match="not an http"):
        await pictures.fetch(RemotePicture(f"file://{tmp_path}/a.jpg"), share(), deadline=in_s())
    with pytest.raises(DeadlineExceededError):
        await pictures.fetch(RemotePicture("a.jpg"), share(), deadline=in_s(-1))
    await pictures.aclose()


async def test_a_long_file_is_counted_before_it_is_read(threads: Threads, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(10**6))
    pictures = RemotePictures(threads, urls=None, folder=PictureFolder(tmp_path, max_bytes=10**6))
    budget = ByteBudget(2**20)
    first, second = budget.share(lambda: None), budget.share(lambda: None)
    await pictures.fetch(RemotePicture("a.jpg"), first, deadline=in_s())
    first.complete()
    assert budget.held == 10**6
    with pytest.raises(QueueFullError):
        await pictures.fetch(RemotePicture("a.jpg"), second, deadline=in_s(0.5))
    second.close()
    assert budget.held == 10**6
