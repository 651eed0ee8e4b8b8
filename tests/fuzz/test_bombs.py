"""Bodies that would cost more than their size are refused for little memory."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from tests.bench.bombs import BOMBS, send
from tests.support.fakes import Harness


@pytest.mark.parametrize("name", BOMBS)
async def test_what_costs_more_than_its_size_is_refused_for_little_memory(name: str) -> None:
    """What it costs in time: `python -m tests.bench.bombs`."""
    harness, bomb = Harness(), BOMBS[name]
    body = bomb.make(2**19)
    await send(harness, bomb, b"{}")
    gc.collect()
    tracemalloc.start()
    status = await send(harness, bomb, body)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    harness.pool.close()
    assert 400 <= status < 500
    assert peak_bytes <= 2**22 + 4 * (len(body) + len(bomb.query))
