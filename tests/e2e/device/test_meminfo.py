"""What is read of the machine's memory, and freed memory that goes back to it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FREE_BETWEEN_USED = """
import ctypes
from pathlib import Path
from jetface.device.machine import trim_memory

def resident_bytes():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [libc.malloc(64 * 1024) for _ in range(2000)]
for block in blocks:
    ctypes.memset(block, 1, 64 * 1024)
for block in blocks[:-1]:  # the last one keeps the end of the heap
    libc.free(block)
before = resident_bytes()
assert trim_memory()
print(before - resident_bytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library has no malloc_trim")
def test_trimming_gives_back_what_lies_free_below_what_is_used() -> None:
    done = subprocess.run([sys.executable, "-c", FREE_BETWEEN_USED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100 * 2**20
