"""One build at a time in a folder."""

from __future__ import annotations

import threading
from pathlib import Path

from jetface.engines.build import LOCK_NAME, build_lock


def test_the_second_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    waits, has_it = threading.Event(), threading.Event()

    def second() -> None:
        with build_lock(folder, on_wait=waits.set):
            has_it.set()

    thread = threading.Thread(target=second)
    with build_lock(folder, on_wait=lambda: None):
        thread.start()
        assert waits.wait(30)
        assert not has_it.is_set()
    assert has_it.wait(30)
    thread.join()


def test_a_lock_file_that_lies_there_means_nothing(tmp_path: Path) -> None:
    """However old it is, and whoever left it."""
    (tmp_path / LOCK_NAME).write_text("4711")
    waits = threading.Event()
    with build_lock(tmp_path, on_wait=waits.set):
        assert not waits.is_set()


def test_where_there_can_be_no_lock_builds_go_on_without(tmp_path: Path) -> None:
    obstacle = tmp_path / "engines"
    obstacle.write_text("a file where a folder should be")
    waits = threading.Event()
    for folder in (obstacle, None):
        with build_lock(folder, on_wait=waits.set), build_lock(folder, on_wait=waits.set):
            assert not waits.is_set()
    assert obstacle.read_text() == "a file where a folder should be"
