"""The API over fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from jetface.gallery.local import LocalGallery
from tests.support.fakes import Harness
from tests.support.gallery_service import opened_gallery


@pytest.fixture(scope="module")
def application() -> Harness:
    """For the tests of a file: building it takes longer than most. One that counts or drains builds its own."""
    return Harness()


@pytest.fixture
def harness(application: Harness) -> Harness:
    return application.renewed()


@pytest.fixture
async def client(harness: Harness) -> AsyncIterator[httpx.AsyncClient]:
    async with harness.client() as client:
        yield client


@pytest.fixture
async def gallery(tmp_path: Path) -> AsyncIterator[LocalGallery]:
    async with opened_gallery(tmp_path / "gallery") as opened:
        yield opened
