"""What a unit test is: it stays in its own process, and is marked where it needs weights."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

_SHARED = {"shared_dir", "shared_models", "shared_images", "shared_faces", "traffic"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the shared folder; what loads the starter models says so itself."""
    for item in items:
        if isinstance(item, pytest.Function) and not _SHARED.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.weights)


@pytest.fixture(autouse=True)
def _one_process() -> Iterator[None]:
    """A process that was started and waited for has touched pages of memory, which the kernel counts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    yield
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    assert after == before, "A unit test started a process: tests that do stand in tests/e2e."
