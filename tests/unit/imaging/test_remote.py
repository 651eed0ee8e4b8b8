"""Pictures that lie elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import DeadlineExceededError, UrlRefusedError
from app.imaging.fetch import UrlFetcher
from app.imaging.folder import PictureFolder
from app.imaging.hosts import HostPolicy
from app.imaging.remote import RemotePictures
from app.imaging.sources import RemotePicture
from app.threads import Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Return one thread."""
    with Threads(1, "test") as pool:
        yield pool


def in_s(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


@pytest.mark.parametrize("url", ["http://a.test/b.jpg", "https://a.test/", "file:///etc/passwd", "a.jpg", "/a.jpg", ""])
async def test_turned_off_everything_is_refused(threads: Threads, url: str) -> None:
    pictures = RemotePictures(threads, urls=None, folder=None)
    with pytest.raises(UrlRefusedError, match="turned off"):
        await pictures.fetch(RemotePicture(url), deadline=in_s())
    await pictures.aclose()


async def test_a_path_is_read_and_a_url_is_fetched(threads: Threads, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"picture")
    pictures = RemotePictures(
        threads, urls=UrlFetcher(HostPolicy.listed([])), folder=PictureFolder(tmp_path, max_bytes=100)
    )
    assert await pictures.fetch(RemotePicture("a.jpg"), deadline=in_s()) == b"picture"
    with pytest.raises(UrlRefusedError, match="not on the list"):
        await pictures.fetch(RemotePicture("http://a.test/a.jpg"), deadline=in_s())
    with pytest.raises(UrlRefusedError, match="not an http"):
        await pictures.fetch(RemotePicture(f"file://{tmp_path}/a.jpg"), deadline=in_s())
    with pytest.raises(DeadlineExceededError):
        await pictures.fetch(RemotePicture("a.jpg"), deadline=in_s(-1))
    await pictures.aclose()
