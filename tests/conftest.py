"""Fixtures for every test: an environment without our variables, and the optional shared folder."""

from __future__ import annotations

import gc
import logging
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from fastapi.dependencies import models as fastapi_caches
from hypothesis import settings as hypothesis_settings

from jetface.settings import Settings, variable_names
from tests.support.shared import require_shared

# A busy machine is no counter-example: pytest's own timeout bounds a test.
hypothesis_settings.register_profile("tests", deadline=None)
hypothesis_settings.register_profile("quick", deadline=None, max_examples=20)
hypothesis_settings.load_profile("tests")


class _SkippedTests:
    """Writes the tests that were skipped to a file, one a line, for a run elsewhere: `.ci/bare` asks for it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self._names.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._names.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._path.write_text("".join(f"{name}\n" for name in dict.fromkeys(self._names)), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Note what is skipped where `SKIPPED_TESTS` names a file; xdist's workers leave it to who started them."""
    if (path := os.environ.get("SKIPPED_TESTS")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_SkippedTests(Path(path)))


def pytest_collection_finish() -> None:
    """Half a million objects that were imported and collected stay to the end: the garbage collector passes them by."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _forget_applications() -> Iterator[None]:
    """FastAPI remembers thousands of endpoints, and with each of them the application of a test that is over."""
    yield
    for cached in vars(fastapi_caches).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()


@pytest.fixture(autouse=True)
def _clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's shell reaches a test."""
    for field in Settings.model_fields:
        for variable in variable_names(field):
            monkeypatch.delenv(variable, raising=False)


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """What a test configures, ends with it: no handler of another test's closed stream stays behind."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # By default structlog lets rich write every local variable of a traceback, which takes seconds.
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], renderer])
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The shared folder itself."""
    return require_shared()


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder of real weights."""
    return require_shared("models")


@pytest.fixture(scope="session")
def shared_images() -> Path:
    """Folder of pictures with 0 to 116 faces."""
    return require_shared("images")


@pytest.fixture(scope="session")
def shared_faces() -> Path:
    """Folder of 200 people, four portraits each."""
    return require_shared("faces")


@pytest.fixture(scope="session")
def traffic() -> bytes:
    """A picture with licence plates, of the set that nothing was trained on."""
    with tarfile.open(require_shared("plates", "plates_romania_mit.tar")) as tar:
        member = tar.extractfile("dayride_type1_001.mp4_t_1094.jpg")
        assert member is not None
        return member.read()
