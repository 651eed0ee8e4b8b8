"""What a building process does about itself: it ends with its parent, gives way to it, and keeps its reports clean."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import BinaryIO

_NICENESS = 10
"""Of the build's threads; Linux derives the priority of their disk accesses from it too."""

_PR_SET_PDEATHSIG = 1
"""Source: `linux/prctl.h`."""


def end_with(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent ends, however that ends.

    Raises:
        SystemExit: The parent has ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit("the process that asked for this engine is gone")


def give_way() -> None:
    """Take a lower priority than the process that serves."""
    os.nice(_NICENESS)


def report_stream() -> BinaryIO:
    """Return what standard output was, unbuffered, and let everything else that is written there go to standard error.

    Libraries write into standard output as they like, from C too.
    """
    stream = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return stream
