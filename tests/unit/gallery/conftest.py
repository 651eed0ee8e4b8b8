"""Galleries on disk and what is put into them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jetface.gallery.local import LocalGallery
from jetface.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def gallery(tmp_path: Path, metrics: Metrics) -> AsyncIterator[LocalGallery]:
    opened = LocalGallery(tmp_path / "gallery", metrics)
    await opened.open()
    yield opened
    await opened.close()
