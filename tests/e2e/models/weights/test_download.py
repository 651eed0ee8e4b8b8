"""Processes that want the same weights."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import platform
import struct
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from jetface.models.download import Fetcher
from tests.support.file_server import Answer, file_server
from tests.support.weights import fetch_in_process, make_spec
from tests.unit.models.weights.test_download import BODY

FLOCK_CALLS = {"x86_64": 73, "aarch64": 32}
"""Numbers of the system call `flock`."""


def fetch_without_locks(url: str, folder: Path, log: Path) -> None:
    """Download as on a file system that knows no locks: the kernel says so to this process, which is spawned."""
    load, if_equal, answer = 0x20, 0x15, 0x06
    refuse, allow = 0x00050000 | errno.ENOLCK, 0x7FFF0000
    program = b"".join(
        struct.pack("HBBI", *step)
        for step in (
            (load, 0, 0, 0),
            (if_equal, 0, 1, FLOCK_CALLS[platform.machine()]),
            (answer, 0, 0, refuse),
            (answer, 0, 0, allow),
        )
    )
    steps = ctypes.create_string_buffer(program)
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(steps)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    assert libc.prctl(22, 2, ctypes.byref(filter_), 0, 0) == 0  # this filter
    with capture_logs() as logs:
        Fetcher().fetch(make_spec(BODY, url=url), folder / "mine.onnx")
    log.write_text(repr(logs))


@pytest.mark.skipif(platform.machine() not in FLOCK_CALLS or sys.platform != "linux", reason="needs seccomp")
def test_a_file_system_without_locks_is_said_and_gone_on_with(tmp_path: Path) -> None:
    other = tmp_path / ".mine.onnx.deadbeef.part"
    other.write_bytes(b"of another process, for all we know")
    with file_server({"/f": Answer(BODY)}) as server:
        process = multiprocessing.get_context("spawn").Process(
            target=fetch_without_locks, args=(f"{server.url}/f", tmp_path, tmp_path / "log")
        )
        process.start()
        process.join(60)
    assert (tmp_path / "mine.onnx").read_bytes() == BODY
    assert other.exists()
    told = (tmp_path / "log").read_text()
    assert "the file system has no locks" in told
    assert "MODELS_DIR" in told


def test_two_processes_download_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    with file_server({"/f": Answer(BODY, pause_s=0.5)}) as server:
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=fetch_in_process, args=(BODY, f"{server.url}/f", path)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert server.requests == ["/f"]
    assert path.read_bytes() == BODY
